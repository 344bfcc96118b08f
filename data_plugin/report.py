"""The report of a search as one HTML page that needs no network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

GIGA, MEGA = 1e9, 1e6


def render_report(search: Mapping[str, Any]) -> str:
    """The page for the contents of a ``search.json``."""
    winners, candidates, images = search["winners"], search["candidates"], search["images"]
    unsure = [winner["budget"] for winner in winners if not winner["distinguishable"]]
    template = Template(resources.files("data_plugin").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Search for {search['config']} with {search['framework']}"),
        summary=escape(
            f"{len(candidates)} networks compared on {images['count']} images at {', '.join(search['taps'])}, "
            "against the largest network of the supernet"
        ),
        winners=_winner_table(winners),
        certainty=escape(
            f"Not distinguishable from the runner-up on these images: {', '.join(unsure)}."
            if unsure
            else "Every winner leads its runner-up by more than 1.96 standard errors."
        ),
        plot=_plot(candidates, winners),
        run=_run_table({key: value for key, value in search.items() if not isinstance(value, list)}),
        candidates=_candidate_table(candidates, search["taps"], {winner["arch"] for winner in winners}),
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
    return _table([f'<th data-sort="">{escape(name)}</th>' for name in head], rows)


def _run_table(values: Mapping[str, Any]) -> str:
    rows = []
    for key, value in values.items():
        shown = {k: v for k, v in value.items() if not isinstance(v, list)} if isinstance(value, Mapping) else value
        text = ", ".join(f"{k} {v}" for k, v in shown.items()) if isinstance(shown, Mapping) else str(shown)
        rows.append(("", [(key.replace("_", " "), key), (text, text)]))
    return _table(["<th>Entry</th>", "<th>Value</th>"], rows)


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Any, Any]]]]) -> str:
    def row(kind: str, cells: Sequence[tuple[Any, Any]]) -> str:
        shown = (f'<td data-value="{escape(str(value))}">{escape(str(text))}</td>' for text, value in cells)
        return f'<tr class="{kind}">{"".join(shown)}</tr>'

    body = "\n".join(row(kind, cells) for kind, cells in rows)
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _plot(candidates: Sequence[Mapping[str, Any]], winners: Sequence[Mapping[str, Any]]) -> str:
    # The figure is built without pyplot, which would pick a window system and keep the figure alive.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for rows, style in ((candidates, {"s": 14, "color": "#7a90a8"}), (winners, {"s": 60, "color": "#2c7a3f"})):
        axes.scatter([row["flops"] / GIGA for row in rows], [row["score"] for row in rows], **style)
    axes.set_xlabel("GFLOPs at 224 x 224")
    axes.set_ylabel("distance to the largest network")
    axes.legend(["candidates", "winners"], frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.5g}" if error is None else f"{value:.5g} ± {error:.2g}"
