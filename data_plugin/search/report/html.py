"""The report of a search as one HTML page that needs no network."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.pareto import pareto_front

GIGA, MEGA = 1e9, 1e6

COSTS = {
    "flops": ("GFLOPs", GIGA, ".3f"),
    "params": ("parameters (M)", MEGA, ".2f"),
    "latency": ("latency (ms)", 1e-3, ".2f"),
    "memory": ("memory (MB)", 2.0**20, ".1f"),
}
"""Label, unit and format of each cost."""

ROWS = 2_000
"""Candidates in the table, closest first; more would make the page slow."""


def cost_label(quantity: str, input_size: Sequence[int] | None = None) -> str:
    """What a column of a cost is called; FLOPs at another size than 224 x 224 say so."""
    label = COSTS[quantity][0]
    return f"{label} at {input_size[0]}x{input_size[1]}" if quantity == "flops" and input_size else label


def cost_text(quantity: str, value: float) -> str:
    """A cost, given in multiply-accumulates, numbers, s or bytes, in the unit of its label."""
    _, unit, precision = COSTS[quantity]
    return f"{value / unit:{precision}}"


def with_error(value: float, error: float | None) -> str:
    """A value with its standard error, if it has one, as plain decimals."""
    return _digits(value, 6) if error is None else f"{_digits(value, 6)} ± {_digits(error, 2)}"


def _digits(value: float, digits: int) -> str:
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def render_report(search: Mapping[str, Any]) -> str:
    """The page for the contents of a ``search.json``."""
    winners, candidates, images = search["winners"], search["candidates"], search["images"]
    named = "arch" if search["pareto"] else "budget"
    led = [winner for winner in winners if winner["margin"] is not None]
    unsure = [winner[named] for winner in led if not winner["distinguishable"]]
    template = Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Search for {search['config']} with {search['framework']}"),
        summary=escape(
            f"{len(candidates)} networks, {_chosen(search)}, compared on {images['count']} images at "
            f"{', '.join(search['taps'])}, "
            f"against the largest network of the supernet{_estimated(search)}"
        ),
        answer="Pareto front" if search["pareto"] else "Winners",
        winners=_winner_table(winners, search["input_size"]),
        certainty=escape(
            f"Not distinguishable from the runner-up on these images: {', '.join(unsure)}."
            if unsure
            else "Every one leads its runner-up, at 95 % confidence by a paired t test over the images."
            if led
            else "There was no runner-up to compare with."
        ),
        cost_plots="\n".join(_cost_plots(candidates, winners, search["input_size"])),
        choice_plot=_choice_plot(candidates),
        run=_run_table({key: value for key, value in search.items() if key not in ("winners", "candidates")}),
        shown=escape(f"The {ROWS} closest of {len(candidates)}; search.csv has all." if len(candidates) > ROWS else ""),
        candidates=_candidate_table(
            candidates[:ROWS], search["taps"], {winner["arch"] for winner in winners}, search["input_size"]
        ),
    )


def _winner_table(winners: Sequence[Mapping[str, Any]], input_size: Sequence[int] | None) -> str:
    more = _further_costs(dict.fromkeys(quantity for winner in winners for quantity in winner["costs"]), input_size)
    head = ["Budget", "Architecture", "GFLOPs", "Parameters (M)", *(cost_label(q, input_size) for q in more)]
    head += ["Score", "Lead over runner-up", "Compared"]
    rows = [
        [
            winner["budget"],
            winner["arch"],
            cost_text("flops", winner["flops"]),
            cost_text("params", winner["params"]),
            *(_checked_cost(winner, quantity) for quantity in more),
            with_error(winner["score"], winner["standard_error"]),
            "none" if winner["margin"] is None else with_error(winner["margin"], winner["margin_error"]),
            winner["candidates"],
        ]
        for winner in winners
    ]
    return _table([f"<th>{escape(name)}</th>" for name in head], [("", [(cell, cell) for cell in row]) for row in rows])


def _checked_cost(winner: Mapping[str, Any], quantity: str) -> str:
    if quantity not in winner["costs"]:
        return ""
    text = cost_text(quantity, winner["costs"][quantity])
    measured = winner["measured"].get(quantity)
    return text if measured is None else f"{text}, whole {cost_text(quantity, measured[1])}"


def _further_costs(bounded: Iterable[str], input_size: Sequence[int] | None) -> list[str]:
    """The bounded quantities that the columns of parameters and of FLOPs at 224 x 224 do not show already."""
    shown = ("params",) if input_size else ("params", "flops")
    return [quantity for quantity in bounded if quantity not in shown]


def _candidate_table(
    candidates: Sequence[Mapping[str, Any]], taps: Sequence[str], best: set[str], input_size: Sequence[int] | None
) -> str:
    more = _further_costs(candidates[0]["costs"], input_size)
    head = ["Architecture", "Budgets", "GFLOPs", "Parameters (M)", *(cost_label(q, input_size) for q in more)]
    head += ["Score", *taps]
    rows = []
    for row in candidates:
        cells = [
            (row["arch"], row["arch"]),
            (", ".join(row["budgets"]), ", ".join(row["budgets"])),
            (cost_text("flops", row["flops"]), row["flops"]),
            (cost_text("params", row["params"]), row["params"]),
            *((cost_text(quantity, row["costs"][quantity]), row["costs"][quantity]) for quantity in more),
            (with_error(row["score"], row["standard_error"]), row["score"]),
            *((with_error(row["taps"][tap], None), row["taps"][tap]) for tap in taps),
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
    if isinstance(value, list | tuple):
        nested = any(isinstance(inner, list | tuple) for inner in value)
        return (" / " if nested else " ").join(_text(inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Any, Any]]]], name: str = "") -> str:
    def row(kind: str, cells: Sequence[tuple[Any, Any]]) -> str:
        shown = (f'<td data-value="{escape(str(value))}">{escape(str(text))}</td>' for text, value in cells)
        return f'<tr class="{kind}">{"".join(shown)}</tr>'

    body = "\n".join(row(kind, cells) for kind, cells in rows)
    table = f"<table{name and f' id={name}'}><thead><tr>{''.join(head)}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _chosen(search: Mapping[str, Any]) -> str:
    """How the candidates came about."""
    if search["evolve"]:
        return "found by evolution"
    chosen = f"{search['samples']} drawn per budget" if search["samples"] else "all within the budgets"
    return f"left of {chosen}" if search["halve"] else chosen


def _estimated(search: Mapping[str, Any]) -> str:
    if search["relation_rows"] is None:
        return ""
    most = max(row["sampling_error"] for row in search["candidates"])
    share = f"accounts for up to {most:.2g} of a score's standard error" if most else "is all that any map has"
    return f"; relations estimated from {search['relation_rows']} drawn rows an image and tap, which {share}"


def _cost_plots(
    candidates: Sequence[Mapping[str, Any]], winners: Sequence[Mapping[str, Any]], input_size: Sequence[int] | None
) -> Iterator[str]:
    """Score against FLOPs, and against every other cost that a budget bounds."""
    bounded = candidates[0]["costs"]
    if "flops" not in bounded:
        yield _cost_plot(candidates, winners, "flops", [row["flops"] for row in candidates], None)
    for quantity in bounded:
        yield _cost_plot(candidates, winners, quantity, [row["costs"][quantity] for row in candidates], input_size)


def _cost_plot(
    candidates: Sequence[Mapping[str, Any]],
    winners: Sequence[Mapping[str, Any]],
    quantity: str,
    costs: Sequence[float],
    input_size: Sequence[int] | None,
) -> str:
    """Score against a cost, with the front of networks that no cheaper one is as close as."""
    figure = _figure(4.2)
    axes = figure.subplots()
    unit = COSTS[quantity][1]
    best = {winner["arch"] for winner in winners}
    points = np.array([(paid / unit, row["score"]) for paid, row in zip(costs, candidates, strict=True)])
    chosen = np.array([row["arch"] in best for row in candidates])
    for among, area, colour in ((points, 14, "#9fb0c3"), (points[chosen], 64, "#2c7a3f")):
        axes.scatter(among[:, 0], among[:, 1], s=area, color=colour)
    axes.step(*points[pareto_front(points)].T, where="post", color="#c0562f")
    axes.set_xlabel(cost_label(quantity, input_size))
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
    panels[1, 1].tick_params(labelleft=True)
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
