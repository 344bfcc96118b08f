"""What a search is run with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data_plugin.frameworks.framework import Task
from data_plugin.search.comparison import Reduction
from data_plugin.search.strategies.sample import Sample
from data_plugin.search.strategies.strategy import Strategy
from data_plugin.space.budget import Budget
from data_plugin.supernet.named_supernet import SHIPPED

DRAWN = Sample()
"""How candidates are found if nobody says."""

_NOT_DECISIVE = ("out", "task", "device", "overwrite", "resume")
"""Options that say where a search is, how it is begun or what computes it."""


@dataclass(frozen=True)
class SearchOptions:
    """What a search is run with.

    Args:
        config: name or path of the framework's config; for classification the images themselves, a folder at any depth
            or what else ``images`` takes.
        supernet: the supernet's ``.safetensors`` file, or "shipped" for the one that comes with the package.
        out: the output folder; None takes the next ``runs/CONFIG-NUMBER``.
        task: what the backbone is for; None leaves it to the config's name.
        framework: the framework; None picks one, see :func:`data_plugin.frameworks.registry.find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects that the winners' configs are for; None leaves them to the config and the
            annotations. No search depends on them.
        budgets: which networks may be chosen; one answer each. None are all groups of the space, see
            :func:`~data_plugin.space.budget.all_groups`.
        every_group: add all groups of the space to the budgets.
        input_size: height and width in pixels at which FLOPs are counted, and latency and memory measured; None
            counts at 224 x 224 and measures at the size of the config's first batch. FLOPs are the papers': of the
            backbone at output stride 32, whatever the config's strides; latency and memory are at the config's.
        latency_table: a file of latencies that were measured on another device, see
            :class:`~data_plugin.space.latency_table.LatencyTable`; None measures them on this one.
        strategy: how candidates are found.
        images: a folder of images, or of tar shards, or a text file that names images, to search on; None takes the
            config's training images.
        image_size: height and width in pixels at which images are classified; None takes the pre-training's. What a
            config's model sees the config says.
        image_count: how many of these are drawn; None takes all.
        batch_size: most images of a batch.
        taps: the feature maps to compare; None takes those that the config's model reads, and for classification
            ``z``.
        reduction: what becomes of the positions of a map, see :class:`~data_plugin.search.searcher.Searcher`.
        norm: what batch norms normalise with, see there.
        precision: what features are computed in, see there.
        relation_rows: rows of the relation that are drawn per image and tap; None takes all.
        search_teacher: a frozen network of any kind instead of the supernet's largest, in the words of
            :func:`~data_plugin.search.external_teacher.open_external_teacher`; none takes the largest.
        max_memory: bytes of tensors that may be held at once on the device; None takes a part of what is free.
        seed: seed of all draws.
        device: a torch device, or ``auto``.
        overwrite: replace an output folder that holds something.
        resume: go on with the unfinished search in the output folder.
        pareto: answer every budget with all networks that none is closer than at no more cost, instead of one.
        options: ``KEY=VALUE`` changes of the config.
    """

    config: str
    supernet: str | os.PathLike[str] = SHIPPED
    out: Path | None = None
    task: Task | None = None
    framework: str | None = None
    data_root: Path | None = None
    classes: Sequence[str] | None = None
    budgets: Sequence[Budget] = ()
    every_group: bool = False
    input_size: tuple[int, int] | None = None
    latency_table: str | os.PathLike[str] | None = None
    strategy: Strategy = DRAWN
    images: str | os.PathLike[str] | None = None
    image_size: int | None = None
    image_count: int | None = 256
    batch_size: int = 4
    taps: Sequence[str] | None = None
    reduction: Reduction = "mean"
    norm: str = "batch"
    precision: str = "float32"
    relation_rows: int | None = None
    search_teacher: Sequence[str] = ()
    max_memory: int | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    pareto: bool = False
    options: Sequence[str] = ()

    def decisive(self) -> dict[str, Any]:
        """Everything that decides what a search comes to, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_DECISIVE}
        values["budgets"] = [budget.name for budget in self.budgets]
        values["strategy"] = self.strategy.to_json()
        return json.loads(json.dumps(values, default=os.fspath))
