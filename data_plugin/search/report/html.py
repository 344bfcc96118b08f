"""The report of a search as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from data_plugin.search.report import words
from data_plugin.search.report.plots import choice_plot, cost_plots, rank_plot
from data_plugin.search.report.search_report import SearchReport
from data_plugin.utils.templates import template

ROWS = 2_000
"""Candidates in the table, closest first; more would make the page slow."""


def html_report(report: SearchReport) -> str:
    """The whole page."""
    return template(__package__, "report.html.j2").render(
        report=report,
        words=words,
        rows=list(report.candidates.rows(ROWS)),
        winning={str(winner.arch) for winner in report.winners},
        run=_run(report),
        rank_plots=_rank_plots(report),
        cost_plots=[Markup(plot) for plot in cost_plots(report)],
        choice_plot=Markup(choice_plot(report)),
    )


def html_summary(report: SearchReport) -> str:
    """The winners, how far to trust them, and the plots of score against cost, for a notebook."""
    parts = {"report": report, "words": words, "rank_plots": _rank_plots(report)}
    tables = [template(__package__, name).render(**parts) for name in ("winners.html.j2", "trust.html.j2")]
    return "\n".join([*tables, *cost_plots(report)])


def _rank_plots(report: SearchReport) -> dict[str, Markup]:
    """By budget, the plot of what a rank check has found."""
    return {name: Markup(rank_plot(check)) for name, check in report.rank_checks.items()}


def _run(report: SearchReport) -> dict[str, str]:
    """Everything that was run, as text."""
    values = {
        "config": report.config,
        "framework": report.framework,
        "data root": report.data_root,
        "budgets": list(report.budgets),
        "taps": list(report.taps),
        "positions of a map": report.reduction,
        "norm policy": report.norm,
        "precision": report.precision,
        "relation rows": report.rows,
        "images": f"{len(report.images.names)}, sha256 {report.images.sha256}",
        "the teacher's own entropy": words.decimals(report.entropy),
        **{name.replace("_", " "): value for name, value in report.run.items() if name != "asked_for"},
    }
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(inner, list | tuple) for inner in value)
        return (" / " if nested else " ").join(_text(inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
