"""The report of a search as one HTML page that needs no network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from data_plugin.arch import STAGES, Arch
from data_plugin.pareto import pareto_front

GIGA, MEGA = 1e9, 1e6

AXES = {
    "flops": ("GFLOPs", GIGA),
    "params": ("parameters (M)", MEGA),
    "latency": ("latency (ms)", 1e-3),
    "memory": ("memory (MB)", 2.0**20),
}
"""Label and unit of each cost."""

ROWS = 2_000
"""Candidates in the table, closest first; more would make the page slow."""


def render_report(search: Mapping[str, Any]) -> str:
    """The page for the contents of a ``search.json``."""
    winners, candidates, images = search["winners"], search["candidates"], search["images"]
    named = "arch" if search["pareto"] else "budget"
    unsure = [winner[named] for winner in winners if not winner["distinguishable"]]
    template = Template(resources.files("data_plugin").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Search for {search['config']} with {search['framework']}"),
        summary=escape(
            f"{len(candidates)} networks compared on {images['count']} images at {', '.join(search['taps'])}, "
            f"against the largest network of the supernet{_estimated(search)}"
        ),
        answer="Pareto front" if search["pareto"] else "Winners",
        winners=_winner_table(winners),
        certainty=escape(
            f"Not distinguishable from the runner-up on these images: {', '.join(unsure)}."
            if unsure
            else "Every one leads its runner-up by more than 1.96 standard errors."
        ),
        cost_plots="\n".join(_cost_plot(candidates, winners, quantity) for quantity in candidates[0]["costs"]),
        choice_plot=_choice_plot(candidates),
        run=_run_table({key: value for key, value in search.items() if key not in ("winners", "candidates")}),
        shown=escape(f"The {ROWS} closest of {len(candidates)}; search.csv has all." if len(candidates) > ROWS else ""),
        candidates=_candidate_table(candidates[:ROWS], search["taps"], {winner["arch"] for winner in winners}),
    )


def _winner_table(winners: Sequence[Mapping[str, Any]]) -> str:
    head = ["Budget", "Architecture", "GFLOPs", "Parameters (M)", "Score", "Lead over runner-up", "Compared"]
    rows = [
        [
            winner["budget"],
            winner["arch"],
            f"{winner['flops'] / GIGA:.3f}",
            f"{winner['params'] / MEGA:.2f}",
            _with_error(winner["score"], winner["standard_error"]),
            "none" if winner["margin"] is None else _with_error(winner["margin"], winner["margin_error"]),
            winner["candidates"],
        ]
        for winner in winners
    ]
    return _table([f"<th>{escape(name)}</th>" for name in head], [("", [(cell, cell) for cell in row]) for row in rows])


def _candidate_table(candidates: Sequence[Mapping[str, Any]], taps: Sequence[str], best: set[str]) -> str:
    head = ["Architecture", "Budgets", "GFLOPs", "Parameters (M)", "Score", *taps]
    rows = []
    for row in candidates:
        cells = [
            (row["arch"], row["arch"]),
            (", ".join(row["budgets"]), ", ".join(row["budgets"])),
            (f"{row['flops'] / GIGA:.3f}", row["flops"]),
            (f"{row['params'] / MEGA:.2f}", row["params"]),
            (_with_error(row["score"], row["standard_error"]), row["score"]),
            *((f"{row['taps'][tap]:.5g}", row["taps"][tap]) for tap in taps),
        ]
        rows.append(("winner" if row["arch"] in best else "", cells))
    return _table([f'<th data-sort="">{escape(name)}</th>' for name in head], rows, "candidates")


def _run_table(values: Mapping[str, Any]) -> str:
    rows = []
    for key, value in values.items():
        text = _text(value)
        rows.append(("", [(key.replace("_", " "), key), (text, text)]))
    return _table(["<th>Entry</th>", "<th>Value</th>"], rows, "run")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items() if key not in ("names", "networks"))
    if isinstance(value, list):
        return " ".join(_text(inner) for inner in value) or "none"
    return "none" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Any, Any]]]], name: str = "") -> str:
    def row(kind: str, cells: Sequence[tuple[Any, Any]]) -> str:
        shown = (f'<td data-value="{escape(str(value))}">{escape(str(text))}</td>' for text, value in cells)
        return f'<tr class="{kind}">{"".join(shown)}</tr>'

    body = "\n".join(row(kind, cells) for kind, cells in rows)
    return f"<table{name and f' id={name}'}><thead><tr>{''.join(head)}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _estimated(search: Mapping[str, Any]) -> str:
    if search["relation_rows"] is None:
        return ""
    most = max(row["sampling_error"] for row in search["candidates"])
    share = f"accounts for up to {most:.2g} of a score's standard error" if most else "is all that any map has"
    return f"; relations estimated from {search['relation_rows']} drawn rows an image and tap, which {share}"


def _cost_plot(candidates: Sequence[Mapping[str, Any]], winners: Sequence[Mapping[str, Any]], quantity: str) -> str:
    """Score against a cost, with the front of networks that no cheaper one is as close as."""
    figure = _figure(4.2)
    axes = figure.subplots()
    label, unit = AXES[quantity]
    best = {winner["arch"] for winner in winners}
    points = np.array([(row["costs"][quantity] / unit, row["score"]) for row in candidates])
    chosen = np.array([row["arch"] in best for row in candidates])
    for among, area, colour in ((points, 14, "#9fb0c3"), (points[chosen], 64, "#2c7a3f")):
        axes.scatter(among[:, 0], among[:, 1], s=area, color=colour)
    axes.step(*points[pareto_front(points)].T, where="post", color="#c0562f")
    axes.set_xlabel(label)
    axes.set_ylabel("distance to the largest network")
    axes.legend(["candidates", "winners", "Pareto front"], frameon=False)
    return _svg(figure)


def _choice_plot(candidates: Sequence[Mapping[str, Any]]) -> str:
    """Score by every choice that an architecture makes: one panel per stage for its depth, and one for its width."""
    archs = [Arch.parse(row["arch"]) for row in candidates]
    scores = [row["score"] for row in candidates]
    figure = _figure(4.6)
    panels = figure.subplots(2, STAGES + 1, sharey=True)
    for stage in range(-1, STAGES):
        for axes, kind in zip(panels[:, stage + 1], ("width", "depth"), strict=True):
            if stage < 0 and kind == "depth":
                axes.axis("off")
                continue
            values = [arch.stem if stage < 0 else getattr(arch, kind)[stage] for arch in archs]
            choices = sorted(set(values))
            groups = [[s for s, v in zip(scores, values, strict=True) if v == choice] for choice in choices]
            axes.boxplot(groups, tick_labels=[str(choice) for choice in choices], showfliers=False, widths=0.6)
            axes.set_title("stem width" if stage < 0 else f"stage {stage + 1} {kind}", fontsize=9)
            axes.tick_params(labelsize=7)
    return _svg(figure)


def _figure(height: float) -> Figure:
    # Without pyplot, which would pick a window system and keep the figure alive.
    return Figure(figsize=(9, height), layout="constrained")


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.5g}" if error is None else f"{value:.5g} ± {error:.2g}"
