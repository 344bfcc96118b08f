"""Our rows beside the paper's, as a page in Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_plugin.frameworks.finetuned import Weights
from data_plugin.reproduce.experiment import THE_PAPERS
from data_plugin.reproduce.recipe import Experiment, Row, Table
from data_plugin.search.report import words
from data_plugin.search.report.finetuning import RANDOM, WINNER
from data_plugin.search.report.rank_check import DISTANCE, RankCheck
from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.rivals import MOST_FLOPS, MOST_PARAMS, RESNET50
from data_plugin.utils.files import write_whole

FINETUNED: Mapping[str, tuple[str, Weights]] = {
    "the pick": (WINNER, "supernet"),
    "the paper's network": (THE_PAPERS, "supernet"),
    RANDOM: (RANDOM, "supernet"),
    MOST_FLOPS: (MOST_FLOPS, "supernet"),
    MOST_PARAMS: (MOST_PARAMS, "supernet"),
    RESNET50: (RESNET50, "supernet"),
    f"{RESNET50}, random weights": (RESNET50, "random"),
}
"""The networks of a table of picks, by the column that they are in."""


def write_table(
    out: Path, table: Table, scale: str, found: Mapping[str, tuple[Row, Experiment, SearchReport, float]], lacking: int
) -> str:
    """Write ``table.json`` and ``table.md`` of the rows that are finished.

    Args:
        out: the folder.
        table: the table.
        scale: the scale.
        found: by row, what it is, its report, and the seconds that it took.
        lacking: rows that are not finished.

    Returns:
        The page.
    """
    layout = LAYOUTS[table.kind]
    lines = [f"# {table.title}", "", f"{layout.said.format(figure=table.figure)}, scale `{scale}`."]
    if lacking:
        lines.append(f"{lacking} of {lacking + len(found)} rows are not finished.")
    if table.baselines:
        baselines = ", ".join(f"{name} {figure:g}" for name, figure in table.baselines.items())
        lines.append(f"The paper has beside them: {baselines}.")
    lines += ["", *_head(["row", "GFLOPs", "paper", *layout.columns])]
    values: dict[str, Any] = {"title": table.title, "scale": scale, "baselines": dict(table.baselines), "rows": {}}
    for name, (row, experiment, report, seconds) in found.items():
        lines += [_line([name, budget, f"{row.paper:g}", *cells]) for budget, cells in layout.cells(report)]
        values["rows"][name] = {
            "paper": row.paper,
            "differs": experiment.differs,
            "seconds": seconds,
            "supernet": report.run["supernet"],
            **layout.values(report),
        }
    for name, (_, experiment, report, seconds) in found.items():
        seeds = " ".join(map(str, experiment.seeds))
        if table.kind == "ranking" and experiment.repeated is not None:
            seeds += f", those after the first for {experiment.repeated} networks a range"
        lines += [
            "",
            f"## {name}",
            "",
            f"Differs from the paper: {experiment.differs}. Seeds {seeds}; fine-tuning took",
        ]
        lines.append(f"{seconds / 3600:.1f} h. Supernet: {words.supernet_text(report.run['supernet'])}.")
        lines += ["", *(f"- {text}" for text in words.trust_texts(report))]
        beside = words.beside(report) if report.finetuning is not None else []
        if beside:
            lines += ["", *_head(beside[0]), *map(_line, beside[1:])]
    page = "\n".join(lines) + "\n"
    write_whole(out / "table.json", lambda path: path.write_text(json.dumps(values, indent=1) + "\n"))
    write_whole(out / "table.md", lambda path: path.write_text(page, encoding="utf-8"))
    return page


@dataclass(frozen=True)
class _Layout:
    """How a kind of table is laid out.

    Args:
        said: what the figures are.
        columns: those behind row, budget and the paper's figure.
        cells: what stands in them, by budget.
        values: the same for JSON.
    """

    said: str
    columns: Sequence[str]
    cells: Callable[[SearchReport], Iterator[tuple[str, list[str]]]]
    values: Callable[[SearchReport], dict[str, Any]]


def _ranking_cells(report: SearchReport) -> Iterator[tuple[str, list[str]]]:
    for budget, check in report.rank_checks.items():
        yield budget, _check_cells(check)


def _check_cells(check: RankCheck) -> list[str]:
    distance = check.predictor(DISTANCE)
    rivals = check.rivals
    best = f"{rivals[0].name} {rivals[0].spearman:+.2f}" if rivals else ""
    mean = sum(network.mean for network in check.networks) / len(check.networks)
    return [
        "" if distance.spearman is None else f"{distance.spearman:+.2f}",
        words.interval_text(distance),
        best,
        "" if check.reach is None else f"{check.reach:+.2f}",
        "" if distance.picked is None else f"{distance.picked:.1f}, {check.best:.1f}, {mean:.1f} {check.metric}",
        str(len(check.networks)),
    ]


def _ranking_values(report: SearchReport) -> dict[str, Any]:
    return {"checks": {budget: check.to_json() for budget, check in report.rank_checks.items()}}


def _picks_cells(report: SearchReport) -> Iterator[tuple[str, list[str]]]:
    assert report.finetuning is not None  # or the row would not be finished
    for budget in report.budgets:
        cells = [words.seeds_text(report.finetuning.values(budget, *network)) for network in FINETUNED.values()]
        yield budget, [report.finetuning.metric, *cells]


def _picks_values(report: SearchReport) -> dict[str, Any]:
    assert report.finetuning is not None
    return {"finetuning": report.finetuning.to_json()}


LAYOUTS = {
    "ranking": _Layout(
        "{figure} of the distance with what fine-tuning comes to",
        ("here", "at 95 %", "best rival", "seeds allow", "pick, best, mean", "networks"),
        _ranking_cells,
        _ranking_values,
    ),
    "picks": _Layout(
        "{figure} of the networks that are picked, beside what one would take without a search",
        ("figure", *FINETUNED),
        _picks_cells,
        _picks_values,
    ),
}
"""By the table's kind."""


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
