"""A table of a paper, from its recipe to a page with our rows beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_plugin.frameworks.finetuned import Finetuned
from data_plugin.reproduce.experiment import SECONDS, finished_row, run_row
from data_plugin.reproduce.outlook import Outlook, outlook
from data_plugin.reproduce.recipe import Experiment, Row, Scale, Table, read_table
from data_plugin.reproduce.report import write_table
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

RUN = "reproduce.json"
"""The file in the output folder that says which table it holds, at which scale, of which supernet and data."""


@dataclass(frozen=True)
class Reproduction:
    """A table that is about to be reproduced.

    Args:
        name: the table's name, or the path of its recipe.
        table: the table.
        scale: the scale.
        supernet: the supernet's file, "shipped", or None where none was named.
        data: the folder of all data sets.
        out: the output folder: a folder a row, ``table.md`` and ``table.json``.
    """

    name: str
    table: Table
    scale: Scale
    supernet: str | None
    data: Path
    out: Path

    def supernet_of(self, experiment: Experiment) -> str | None:
        """The supernet's file of one row, "shipped", or None where none was named."""
        return str(self.data / experiment.supernet) if experiment.supernet else self.supernet

    @property
    def rows(self) -> Mapping[str, tuple[Row, Experiment]]:
        """The rows that have this scale, by name."""
        rows = self.table.rows
        return {row.name: (row, row.scales[self.scale]) for row in rows if self.scale in row.scales}


def open_table(name: str, scale: Scale, data: Path, out: Path, supernet: str | None = None) -> Reproduction:
    """Read a table's recipe; nothing is written.

    Args:
        name: see :func:`~data_plugin.reproduce.recipe.read_table`.
        scale: the scale.
        data: the folder of all data sets.
        out: the output folder.
        supernet: the supernet's file; None takes the recipe's.

    Raises:
        UserError: if there is no such table, it has no row of that scale, or a supernet is named and rows have their
            own.
    """
    table = read_table(name)
    found = Reproduction(name, table, scale, supernet or table.supernets.get(scale), data, out)
    if not found.rows:
        raise UserError(f"{name} has no row of the scale {scale!r}")
    own = [row for row, (_, experiment) in found.rows.items() if experiment.supernet]
    if supernet is not None and own:
        raise UserError(
            f"{name} names supernets of its own, for the row {own[0]} for one; leave out --supernet {supernet}"
        )
    return found


def foresee(reproduction: Reproduction) -> tuple[list[Outlook], list[str]]:
    """What every row takes, and what is missing for all of them, such as a supernet.

    Raises:
        UserError: if the supernet that was named cannot be read.
    """
    missing, space = [], SearchSpace.data()
    rows = reproduction.rows.values()
    if reproduction.supernet is not None:
        space = load_supernet(reproduction.supernet).info.space
    elif not all(experiment.supernet for _, experiment in rows):
        missing.append("a supernet of the paper's space; pre-train one and name it with --supernet")
    kind = reproduction.table.kind
    return [outlook(kind, *each, reproduction.scale, space, reproduction.data) for each in rows], missing


def reproduce(
    reproduction: Reproduction,
    rows: Sequence[str] | None = None,
    *,
    resume: bool = False,
    done: Callable[[str, Finetuned], None] = lambda row, finetuned: None,
) -> str:
    """Run rows of a table one after the other; several calls may run other rows of it at the same time.

    Args:
        reproduction: the table.
        rows: names of the rows to run; None runs all.
        resume: go on with what the output folder holds.
        done: called with a row's name and every fine-tuning of it that is done.

    Returns:
        The page of all rows that are finished, which is ``table.md``.

    Raises:
        UserError: if anything is missing or does not fit; what is finished stays.
    """
    unknown = [name for name in rows or () if name not in reproduction.rows]
    if unknown:
        raise UserError(f"{reproduction.name} has no row {unknown[0]!r}; expected {', '.join(reproduction.rows)}")
    chosen = list(reproduction.rows) if rows is None else rows
    outlooks, missing = foresee(reproduction)
    missing += [what for each in outlooks if each.row in chosen for what in each.missing]
    if missing:
        raise UserError(f"{reproduction.name} at the scale {reproduction.scale!r} lacks {'; '.join(missing)}")
    _open(reproduction, chosen, resume)
    for name in chosen:
        row, experiment = reproduction.rows[name]
        out = reproduction.out / name
        supernet = reproduction.supernet_of(experiment)
        assert supernet is not None  # or it would be missing
        run_row(reproduction.table.kind, row, experiment, supernet, reproduction.data, out, partial(done, name))
        write_page(reproduction)
    return write_page(reproduction)


def write_page(reproduction: Reproduction) -> str:
    """Write what the finished rows came to, and return the page."""
    found = {}
    for name, (row, experiment) in reproduction.rows.items():
        folder = reproduction.out / name
        if (report := finished_row(reproduction.table.kind, folder)) is not None:
            found[name] = (row, experiment, report, json.loads((folder / SECONDS).read_text()))
    lacking = len(reproduction.rows) - len(found)
    return write_table(reproduction.out, reproduction.table, reproduction.scale, found, lacking)


def _open(reproduction: Reproduction, rows: Sequence[str], resume: bool) -> None:
    """Make the output folder, or check that what it holds is this table, and no row that was begun without --resume."""
    out, path = reproduction.out, reproduction.out / RUN
    settings = {"table": reproduction.name, "scale": reproduction.scale, "supernet": reproduction.supernet}
    settings["data"] = str(reproduction.data)
    if out.is_file():
        raise UserError(f"the output {out} is a file; expected a folder that may be made")
    if out.is_dir() and any(out.iterdir()):
        before = json.loads(path.read_text()) if path.is_file() else {}
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if changed:
            was = f"its {changed[0]} was {before[changed[0]]} and is {settings[changed[0]]}" if before else "no table"
            raise UserError(f"{out} holds something else, {was}; name another folder")
        begun = [row for row in rows if (out / row).exists()]
        if begun and not resume:
            raise UserError(f"{out} holds the row {begun[0]}; add --resume to go on with it, or name another folder")
        return
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(settings, indent=1) + "\n"))
