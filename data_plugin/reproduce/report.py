"""Our rows beside the paper's, as a page in Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_plugin.reproduce.recipe import Experiment, Row, Table
from data_plugin.search.report import words
from data_plugin.search.report.rank_check import DISTANCE, RankCheck
from data_plugin.search.report.search_report import SearchReport
from data_plugin.utils.files import write_whole

HEADS = (
    "row",
    "GFLOPs",
    "paper",
    "here",
    "at 95 %",
    "best rival",
    "seeds allow",
    "pick, best, mean",
    "networks",
)


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
    lines = [f"# {table.title}", "", f"{table.figure} of the distance with what fine-tuning comes to, scale `{scale}`."]
    if lacking:
        lines.append(f"{lacking} of {lacking + len(found)} rows are not finished.")
    lines += ["", _line(HEADS), _line(["---"] * len(HEADS))]
    values: dict[str, Any] = {"title": table.title, "scale": scale, "rows": {}}
    for name, (row, experiment, report, seconds) in found.items():
        for budget, check in report.rank_checks.items():
            lines.append(_line([name, budget, f"{row.paper:.2f}", *_cells(check)]))
        values["rows"][name] = {
            "paper": row.paper,
            "differs": experiment.differs,
            "seconds": seconds,
            "supernet": report.run["supernet"],
            "checks": {budget: check.to_json() for budget, check in report.rank_checks.items()},
        }
    for name, (_, experiment, report, seconds) in found.items():
        seeds = " ".join(map(str, experiment.seeds))
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
            lines += ["", _line(beside[0]), _line(["---"] * len(beside[0])), *map(_line, beside[1:])]
    page = "\n".join(lines) + "\n"
    write_whole(out / "table.json", lambda path: path.write_text(json.dumps(values, indent=1) + "\n"))
    write_whole(out / "table.md", lambda path: path.write_text(page, encoding="utf-8"))
    return page


def _cells(check: RankCheck) -> list[str]:
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


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
