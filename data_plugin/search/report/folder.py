"""What a search leaves behind: ``search.json``, ``search.csv``, ``report.html`` and a folder per winner."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.search.report.html import html_report
from data_plugin.search.report.search_report import SEARCH_FILE, Candidates, SearchReport, Winner
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole, write_whole_folder

PARTIAL = "partial"
"""Folder of an unfinished search in its output folder."""

RUNS = Path("runs")
"""Where searches that are given no output folder put theirs."""


def numbered_folder(config: str, resume: bool, finetune: bool = False) -> Path:
    """The output folder of a search that was given none: ``runs/CONFIG-1`` and on.

    Args:
        config: name or path of the config.
        resume: take the newest one that holds an unfinished search.
        finetune: take a finished search for unfinished, too, whose winners and rivals are not all fine-tuned.

    Raises:
        UserError: if a search is to go on and none is unfinished.
    """
    name = Path(config).stem
    matches = ((re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name), path) for path in RUNS.glob("*"))
    found = {int(match[1]): path for match, path in matches if match}
    if not resume:
        return RUNS / f"{name}-{max(found, default=0) + 1}"
    newest_first = (found[number] for number in sorted(found, reverse=True))
    unfinished = (path for path in newest_first if (path / PARTIAL).is_dir() or (finetune and _is_not_finetuned(path)))
    if (path := next(unfinished, None)) is None:
        what = f"no unfinished search of {config}{', nor one to fine-tune the winners of' if finetune else ''}"
        raise UserError(f"{RUNS} holds {what}; start one without --resume, or name its --out")
    return path


def _is_not_finetuned(out: Path) -> bool:
    """Whether a folder holds a finished search whose winners and rivals are not all fine-tuned."""
    return (out / SEARCH_FILE).is_file() and SearchReport.read(out).finetuning is None


def require_free(out: Path, overwrite: bool, resume: bool) -> None:
    """Check that an output folder may be written.

    Args:
        out: the folder.
        overwrite: whether what it holds may be replaced.
        resume: whether the unfinished search that it holds goes on; where it holds nothing, one starts, so that a
            search that was killed before its first batch goes on too.

    Raises:
        UserError: if it is a file, or the folder that the process is in; cannot be written; holds anything and neither
            is set; or holds something that is no unfinished search where one is to go on.
    """
    if out.is_file():
        raise UserError(f"the output {out} is a file; expected a folder that may be made")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"the output folder {out.resolve()} would be replaced while you are in it; name one below it")
    nearest = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise UserError(f"the output folder {out} cannot be made in {nearest}; name one that you may write")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if resume and held and PARTIAL not in held:
        raise UserError(f"the output folder {out} holds no unfinished search; start one without --resume")
    if PARTIAL in held and not (resume or overwrite):
        raise UserError(f"the output folder {out} holds an unfinished search; add --resume or --overwrite")
    if held and not (resume or overwrite):
        raise UserError(f"the output folder {out} is not empty; name another or add --overwrite")


def write_search(
    out: Path, report: SearchReport, networks: Sequence[DATAResNet], write_configs: Callable[[Winner, Path], None]
) -> None:
    """Write the whole output folder, or nothing.

    Args:
        out: the folder to make or replace.
        report: the report.
        networks: the winners' networks with weights, in their order.
        write_configs: called with every winner and its folder, to add training configs.
    """

    def fill(partial: Path) -> None:
        for winner, network in zip(report.winners, networks, strict=True):
            folder = partial / winner.folder
            save_backbone(folder, network)
            write_configs(winner, folder)
        write_report(partial, report)
        write_csv(partial / "search.csv", report.candidates)

    write_whole_folder(out, fill)


def write_report(out: Path, report: SearchReport) -> None:
    """Write ``search.json`` and ``report.html``, each whole or not at all.

    Args:
        out: the folder of the search.
        report: the report.
    """
    _write(out / SEARCH_FILE, json.dumps(report.to_json(), indent=1) + "\n")
    _write(out / "report.html", html_report(report))


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path: Path, candidates: Candidates) -> None:
    """Write the candidates as a table, a row each."""
    plain = ["arch", "flops", "params", "score", "standard_error"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, "budgets", *(f"budgeted_{each}" for each in candidates.costs), *candidates.taps])
        for row in candidates.rows():
            costs, taps = row["costs"].values(), row["taps"].values()
            writer.writerow([*(row[key] for key in plain), ";".join(row["budgets"]), *costs, *taps])
