"""What a table of a paper says, and how each of its rows is run here and at the paper's own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from data_plugin.frameworks.framework import Task
from data_plugin.utils.errors import UserError
from data_plugin.utils.recipe_file import read_recipe_file

Scale = Literal["here", "paper"]
"""Small enough for a CPU, and as the paper has it."""

SCALES: tuple[Scale, ...] = ("here", "paper")

_FILES = (Path(__file__).parent / "recipes").glob("*.toml")
RECIPES = {
    path.stem: path for path in sorted(_FILES, key=lambda path: (path.stem[:5] != "table", len(path.stem), path.stem))
}
"""The tables that come with the package, by name."""


@dataclass(frozen=True)
class Experiment:
    """One row of a table at one scale: networks that are searched and fine-tuned alike.

    Args:
        task: what the backbones are for.
        data: the data set, relative to the folder of all: a config's data root, or for classification a folder with
            ``train`` and ``val`` of a sub-folder a class each.
        networks: networks that are drawn of every range, and fine-tuned: one number, or one for each range.
        length: of every fine-tuning: iterations, and epochs for classification.
        images: images that one fine-tuning sees, repetitions counted.
        size: height and width of these, in pixels.
        differs: what is not as in the paper, in words.
        config: the framework's config; empty for classification.
        framework: the one whose keys the options are; None picks one.
        options: ``KEY=VALUE`` changes of the config.
        ranges: percentiles of the space's FLOPs between which networks are drawn, a budget each.
        group: a range of GFLOPs in their place, such as "3-4".
        seeds: seeds of every network's fine-tunings.
        repeated: networks of every range that are fine-tuned with all of them in a table of rankings, the others with
            the first; without it all are.
        source: images that are searched on in the place of the task's own, relative to the folder of all.
        supernet: a supernet of its own, relative to the folder of all.
        image_count: images of the search.
        image_size: height and width at which images are classified; None takes the pre-training's.
        labels: part of every class whose labels are used, for classification.
        protocol: how networks are trained to classify, see :class:`~data_plugin.ranking.classified.LabelledImages`.
    """

    task: Task
    data: str
    networks: int | Sequence[int]
    length: int
    images: int
    size: Sequence[int]
    differs: str
    config: str = ""
    framework: str | None = None
    options: Sequence[str] = ()
    ranges: Sequence[Sequence[float]] = ((0, 100),)
    group: str = ""
    seeds: Sequence[int] = (0,)
    repeated: int | None = None
    source: str = ""
    supernet: str = ""
    image_count: int = 256
    image_size: int | None = None
    labels: float = 1.0
    protocol: Literal["semisup", "linear"] = "semisup"

    @property
    def networks_of(self) -> list[int]:
        """The number of networks of each range."""
        return [self.networks] * len(self.ranges) if isinstance(self.networks, int) else list(self.networks)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: what it is about, as the folder of its output is called.
        paper: the paper's figure.
        taps: what the search compares.
        scales: how it is run.
        arch: the network that the paper has found; empty where it names none.
    """

    name: str
    paper: float
    taps: Sequence[str]
    scales: Mapping[str, Experiment]
    arch: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Args:
        title: what it is.
        kind: what its rows are: how far the distance ranks networks ("ranking"), or what the network comes to that it
            picks ("picks").
        figure: what the paper gives for every row.
        supernets: by scale, the supernet; where there is none it has to be named.
        rows: the rows. In a recipe, what several have in common may stand in front of them.
        baselines: what the paper has beside them, by name.
    """

    title: str
    kind: Literal["ranking", "picks"]
    figure: str
    supernets: Mapping[str, str]
    rows: Sequence[Row]
    baselines: Mapping[str, float]


def read_table(name: str) -> Table:
    """A table by its name, or from a recipe of one's own.

    Args:
        name: a name of :data:`RECIPES`, or a path that ends in ``.toml``.

    Raises:
        UserError: if there is no such recipe, or it cannot be used.
    """
    path = RECIPES.get(name, Path(name))
    if name not in RECIPES and path.suffix != ".toml":
        raise UserError(f"{name!r} is no table; expected one of {', '.join(RECIPES)}, or the path of a .toml file")
    values = dict(read_recipe_file(path))
    common: dict[str, Any] = {name: values.pop(name) for name in ("taps", "scales") if name in values}
    rows = [
        _filled(Row, _row(row, common), f"row {number} of {path}")
        for number, row in enumerate(values.get("rows", ()), 1)
    ]
    table: Table = _filled(Table, {"supernets": {}, "baselines": {}, **values, "rows": rows}, str(path))
    if not rows or len({row.name for row in rows}) < len(rows):
        raise UserError(f"the rows of {path} are {', '.join(row.name for row in rows) or 'none'}; expected each once")
    if table.kind not in get_args(get_type_hints(Table)["kind"]):
        raise UserError(f"{path} is a table of the kind {table.kind!r}; expected ranking or picks")
    return table


def _row(values: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row and those of all rows, of the scales that it names or, if it names none, of all."""
    scales = common.get("scales", {})
    own = values.get("scales", scales)
    merged = {name: {**scales.get(name, {}), **each} for name, each in own.items()}
    return {**common, **values, "scales": merged}


def _filled(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass of the values of a recipe; the scales of a row are :class:`Experiment`."""
    known = {field.name: field for field in fields(kind)}
    unknown = [name for name in values if name not in known]
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if unknown or missing:
        what = f"has no entry {missing[0]!r}" if missing else f"has an entry {unknown[0]!r}"
        raise UserError(f"{where} {what}; expected {', '.join(known)}")
    if kind is Row:
        scales = {name: _filled(Experiment, each, f"{where}, {name}") for name, each in values["scales"].items()}
        values = {**values, "scales": scales}
    found = kind(**values)
    if kind is Experiment and len(found.networks_of) != len(found.ranges):
        raise UserError(
            f"{where} has networks = {found.networks} and {len(found.ranges)} ranges; expected a number for each, "
            "or one for all"
        )
    return found
