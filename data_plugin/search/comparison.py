"""Comparing the networks of a supernet with its teacher on one batch of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import batch_statistics
from data_plugin.features.norm_statistics import Recalibrated
from data_plugin.features.prefix_tree import Stages, Visit, walk
from data_plugin.images.batch import ImageBatch
from data_plugin.search.distances.embedding import TeacherEmbedding
from data_plugin.search.distances.relation import TEMPERATURE, TeacherRelation, draw_rows, kept
from data_plugin.search.taps import EMBEDDING, stage_of
from data_plugin.space.arch import Arch

if TYPE_CHECKING:
    from data_plugin.pretrain.methods.method import Method

NORM_POLICIES = ("batch", "recalibrated", "running")
"""What batch norms normalise with.

The statistics of the batch at hand; every network's own over some of the images, which costs one more walk; or the
supernet's running ones, which mix those of all its networks.
"""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""In what features may be computed; relations and distances are always in float32 or wider."""


class Networks:
    """Networks of one branch, to be walked over with a norm policy and in a precision.

    Args:
        network: the branch, in evaluation mode, on the device to compute on.
        archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them.
        last_stage: stages after this one, 0 to 3, are not computed.
        norm: one of :data:`NORM_POLICIES`.
        precision: of the features.
        calibration: images (N, 3, H, W) that ``recalibrated`` takes statistics from, batch by batch.
    """

    def __init__(
        self,
        network: DynamicResNet,
        archs: Sequence[Arch],
        last_stage: int,
        norm: str = "batch",
        precision: torch.dtype = torch.float32,
        calibration: Iterable[Tensor] = (),
    ) -> None:
        self.archs = archs
        self.device = next(network.parameters()).device
        self.last_stage = last_stage
        self.precision = precision
        self.stages: Callable[[], AbstractContextManager[Stages[Tensor]]] = lambda: nullcontext(network)
        if norm == "recalibrated":
            images = (batch.to(self.device) for batch in calibration)
            self.stages = Recalibrated(network, archs, last_stage, images).walked
        elif norm == "batch":
            self.stages = partial(batch_statistics, network)

    def walk(self, images: Tensor, visit: Visit) -> None:
        """Compute every distinct stage output on images (N, 3, H, W); see :func:`.prefix_tree.walk`."""
        with self.stages() as stages:
            if self.precision != torch.float32:
                stages = _Autocast(stages, self.device.type, self.precision)
            # Faster on CPUs and in half precision on GPUs, and a map's columns then lie as the relation needs them.
            images = images.to(self.device, memory_format=torch.channels_last)
            walk(stages, images, self.archs, self.last_stage, visit)


@dataclass(frozen=True)
class Comparison:
    """Students compared with their teacher.

    Args:
        teacher: the one network that is the teacher.
        students: the networks to compare.
        taps: what to compare, see :mod:`data_plugin.search.taps`.
        temperature: of the relation softmax.
        rows: rows of the relation that are drawn per image and tap; None takes all.
        seed: seed of that draw.
        tile: see :class:`~data_plugin.search.distances.relation.TeacherRelation`.
        heads: what makes embeddings of C5, for the tap ``z``.
        known: which distances are known already and not measured, (taps, networks); None for none.
    """

    teacher: Networks
    students: Networks
    taps: Sequence[str]
    temperature: float = TEMPERATURE
    rows: int | None = None
    seed: int = 0
    tile: int | None = None
    heads: Method | None = None
    known: np.ndarray | None = None

    def run(
        self,
        batch: ImageBatch,
        found: Callable[[int, int, int, Tensor, Tensor], None],
        settled: Callable[[int], None] = lambda networks: None,
    ) -> None:
        """Compare on one batch, each distinct feature map once.

        Args:
            batch: the images.
            found: called with the index of a tap, first, end, distances (N,) and their variances (N,), which are those
                of all ``students.archs[first:end]``.
            settled: called with the number of networks whose last tap has been compared.
        """
        taps = {stage_of(name): tap for tap, name in enumerate(self.taps)}
        teachers: dict[int, _Teacher] = {}

        def keep(stage: int, features: Tensor, first: int, end: int) -> None:
            if stage in taps:
                teachers[stage] = _Teacher(features, batch, partial(self._target, self.taps[taps[stage]]))

        def visit(stage: int, features: Tensor, first: int, end: int) -> None:
            if stage in taps and not (self.known is not None and self.known[taps[stage], first]):
                found(taps[stage], first, end, *teachers[stage].estimate(features))
            if stage == self.students.last_stage:
                settled(end - first)

        self.teacher.walk(batch.images, keep)
        self.students.walk(batch.images, visit)

    def distances(
        self, batch: ImageBatch, settled: Callable[[int], None] = lambda networks: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances and their variances on one batch, both (taps, networks, images), float64; zero where known."""
        shape = (2, len(self.taps), len(self.students.archs), len(batch.names))
        # On the device to the end: fetching every value when it is found would make a GPU wait each time.
        values = torch.zeros(shape, dtype=torch.float64, device=self.students.device)

        def found(tap: int, first: int, end: int, distances: Tensor, variances: Tensor) -> None:
            values[0, tap, first:end] = distances
            values[1, tap, first:end] = variances

        self.run(batch, found, settled)
        distances, variances = values.cpu().numpy()
        return distances, variances

    def _target(self, tap: str, own: Tensor, names: Sequence[str], padded: int) -> Target:
        """The teacher's side for some images, given its maps of them without the padding and the padded positions."""
        if tap == EMBEDDING:
            assert self.heads is not None
            return TeacherEmbedding(own, self.heads)
        positions = own.shape[-2] * own.shape[-1]
        drawn = None if self.rows is None else draw_rows(names, positions, self.rows, self.seed, tap)
        return TeacherRelation(
            own,
            self.temperature,
            None if drawn is None else drawn.to(own.device),
            self.tile,
            keep=kept(padded, self.rows),  # by the padded size, for which memory was foreseen
        )


class Target(Protocol):
    """The teacher's side of a distance, prepared once for all students."""

    def estimate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (N,) of a student's maps (N, C, H, W), and their variances from sampling."""
        ...


class _Teacher:
    """The teacher's side for one batch and tap, image by image without the padding."""

    def __init__(
        self, features: Tensor, batch: ImageBatch, target: Callable[[Tensor, Sequence[str], int], Target]
    ) -> None:
        height, width = batch.images.shape[-2:]
        # A position is an image's own if the image reaches into the patch of pixels that it stands for.
        down, across = height / features.shape[-2], width / features.shape[-1]
        sizes = [(ceil(h / down), ceil(w / across)) for h, w in batch.sizes]
        padded = features.shape[-2] * features.shape[-1]
        self.count = len(sizes)
        self.groups = [(size, [i for i, other in enumerate(sizes) if other == size]) for size in sorted(set(sizes))]
        self.targets = [
            target(self._own(features, index, *size), [batch.names[i] for i in index], padded)
            for size, index in self.groups
        ]

    def estimate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.targets) == 1:
            ((size, index),) = self.groups
            return self.targets[0].estimate(self._own(features, index, *size))
        found = torch.empty(2, self.count, dtype=torch.float64, device=features.device)
        for ((height, width), index), target in zip(self.groups, self.targets, strict=True):
            found[:, index] = torch.stack(target.estimate(self._own(features, index, height, width)))
        return found[0], found[1]

    def _own(self, features: Tensor, index: Sequence[int], height: int, width: int) -> Tensor:
        # An index that takes all images would copy them.
        chosen = features if len(index) == self.count else features[index]
        return chosen[..., :height, :width]


@dataclass(frozen=True)
class _Autocast:
    """A supernet whose parts compute in a lower precision where that is safe."""

    stages: Stages[Tensor]
    device_type: str
    precision: torch.dtype

    def stem(self, x: Tensor, width: int) -> Tensor:
        with torch.autocast(self.device_type, self.precision):
            return self.stages.stem(x, width)

    def stage(self, index: int, x: Tensor, width: int, depth: int, start: int = 0) -> Tensor:
        with torch.autocast(self.device_type, self.precision):
            return self.stages.stage(index, x, width, depth, start)
