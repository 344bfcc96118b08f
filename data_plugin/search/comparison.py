"""Comparing the networks of a supernet with its teacher on one batch of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from data_plugin.features.networks import Networks
from data_plugin.features.prefix_tree import prefix
from data_plugin.images.batch import ImageBatch
from data_plugin.search.distances.embedding import Embedder, TeacherEmbedding
from data_plugin.search.distances.relation import TEMPERATURE, TeacherRelation, draw_rows, kept
from data_plugin.search.external_teacher import ExternalTeacher, on_grid
from data_plugin.search.taps import EMBEDDING, stage_of
from data_plugin.space.arch import Arch

Reduction = Literal["mean", "sum"]
"""What becomes of a map's positions: their mean, as the authors' release takes it, or their sum, as Eq. 5 has it."""

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

Found = Callable[[int, int, int, Tensor, Tensor], None]
"""What a comparison calls with the index of a tap, first, end, divergences (N,) and their variances (N,), which are
those of all networks from first to end."""


@dataclass(frozen=True)
class Comparison:
    """Students compared with their teacher.

    Args:
        teacher: the branch of the teacher, which is its largest network.
        students: the branch of the students.
        taps: what to compare, see :mod:`data_plugin.search.taps`.
        temperature: of the relation softmax.
        reduction: what becomes of a map's positions.
        rows: rows of the relation that are drawn per image and tap; None takes all.
        seed: seed of that draw.
        tile: see :class:`~data_plugin.search.distances.relation.TeacherRelation`.
        embedder: what makes embeddings of C5, for the tap ``z``.
        external: a network of any kind in the teacher's place.
        faster: remembers for which shapes of relations a kernel is faster.
    """

    teacher: Networks
    students: Networks
    taps: Sequence[str]
    temperature: float = TEMPERATURE
    reduction: Reduction = "mean"
    rows: int | None = None
    seed: int = 0
    tile: int | None = None
    embedder: Embedder | None = None
    external: ExternalTeacher | None = None
    faster: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def targets(self, batch: ImageBatch) -> dict[int, Target]:
        """The teacher's side on one batch, by the stage that a tap stands behind."""
        taps = {stage_of(tap): tap for tap in self.taps}
        found: dict[int, Target] = {}

        def keep(stage: int, features: Tensor, first: int, end: int) -> None:
            if taps.get(stage) == EMBEDDING:
                assert self.embedder is not None
                found[stage] = _EmbeddingTarget(features, batch, self.embedder)
            elif stage in taps:
                found[stage] = _RelationTarget(features, batch, self, taps[stage])

        if self.external is not None:
            maps = self.external.maps(batch, self.teacher.device)
            for stage, tap in taps.items():
                padded = self.teacher.network.map_size(batch.images.shape[-2:], stage)
                features = on_grid(maps, own_sizes(padded, batch), padded)
                found[stage] = _RelationTarget(features, batch, self, tap)
            return found
        self.teacher.walk([self.teacher.network.space.largest], batch.images, keep)
        return found

    def compare(
        self,
        batch: ImageBatch,
        targets: dict[int, Target],
        archs: Sequence[Arch],
        found: Found,
        known: np.ndarray | None = None,
        settled: Callable[[int], None] = lambda networks: None,
    ) -> None:
        """Compare networks on one batch, each distinct feature map once.

        Args:
            batch: the images.
            targets: what :meth:`targets` gave for them.
            archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them.
            found: is told what is found.
            known: what is known already and not compared, (taps, networks); None for nothing.
            settled: called with the number of networks whose last tap has been compared.
        """
        taps = {stage_of(name): tap for tap, name in enumerate(self.taps)}

        def visit(stage: int, features: Tensor, first: int, end: int) -> None:
            if stage in taps and not (known is not None and known[taps[stage], first]):
                network = prefix(archs[first], stage)
                found(taps[stage], first, end, *targets[stage].estimate(features, network))
            if stage == self.students.last_stage:
                settled(end - first)

        self.students.walk(archs, batch.images, visit)


class Target(ABC):
    """The teacher's side of a distance for one batch and tap, prepared once for all students."""

    entropies: Tensor
    """What the distance of Eq. 5 has beyond the divergence, the same for every student, (N,), float64."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of what is kept."""

    @abstractmethod
    def estimate(self, features: Tensor, network: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Divergences (N,) of a student's maps (N, C, H, W), and their variances from sampling, float64.

        Args:
            features: the maps, of padded images.
            network: what decides them, as :func:`data_plugin.features.prefix_tree.prefix` has it.
        """


class _RelationTarget(Target):
    """Relations of maps, image by image without the padding."""

    def __init__(self, features: Tensor, batch: ImageBatch, comparison: Comparison, tap: str) -> None:
        sizes = own_sizes(features.shape[-2:], batch)
        self.groups = [(size, [i for i, other in enumerate(sizes) if other == size]) for size in sorted(set(sizes))]
        padded = features.shape[-2] * features.shape[-1]
        self.relations = []
        for size, index in self.groups:
            own = _own(features, index, *size)
            names, positions = [batch.names[i] for i in index], own.shape[-2] * own.shape[-1]
            count = comparison.rows
            rows = None if count is None else draw_rows(names, positions, count, comparison.seed, tap)
            self.relations.append(
                TeacherRelation(
                    own,
                    comparison.temperature,
                    None if rows is None else rows.to(own.device),
                    comparison.tile,
                    keep=kept(padded, comparison.rows),  # by the padded size, for which memory was foreseen
                    faster=comparison.faster,
                )
            )
        self.reduction = comparison.reduction
        self.entropies = self._gathered([self._reduced(relation, relation.own) for relation in self.relations])

    @property
    def bytes(self) -> int:
        return sum(relation.bytes for relation in self.relations)

    def estimate(self, features: Tensor, network: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        found = []
        for (size, index), relation in zip(self.groups, self.relations, strict=True):
            divergence, variance = relation.estimate(_own(features, index, *size))
            found.append((self._reduced(relation, divergence), self._reduced(relation, variance, power=2)))
        divergences, variances = zip(*found, strict=True)
        return self._gathered(divergences), self._gathered(variances)

    def _reduced(self, relation: TeacherRelation, total: Tensor, power: int = 1) -> Tensor:
        return total / relation.positions**power if self.reduction == "mean" else total

    def _gathered(self, of_groups: Sequence[Tensor]) -> Tensor:
        """Values of all images (N,), in their order, from those of each group."""
        if len(of_groups) == 1:
            return of_groups[0]
        gathered = of_groups[0].new_empty(sum(map(len, of_groups)))
        for (_, index), values in zip(self.groups, of_groups, strict=True):
            gathered[index] = values
        return gathered


class _EmbeddingTarget(Target):
    """Embeddings of whole images without the padding."""

    def __init__(self, features: Tensor, batch: ImageBatch, embedder: Embedder) -> None:
        self.sizes = own_sizes(features.shape[-2:], batch)
        self.embedding = TeacherEmbedding(own_means(features, self.sizes), embedder)
        self.entropies = torch.zeros(len(self.sizes), dtype=torch.float64, device=features.device)

    @property
    def bytes(self) -> int:
        return self.embedding.embeddings.nbytes

    def estimate(self, features: Tensor, network: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        distances = self.embedding.distance(own_means(features, self.sizes), network)
        return distances, torch.zeros_like(distances)


def own_sizes(map_size: Sequence[int], batch: ImageBatch) -> list[tuple[int, int]]:
    """Height and width of every image's own part of a map of a height and width, without what stands for the padding.

    A position is an image's own if the image reaches into the patch of pixels that it stands for.
    """
    height, width = batch.images.shape[-2:]
    down, across = height / map_size[0], width / map_size[1]
    return [(ceil(h / down), ceil(w / across)) for h, w in batch.sizes]


def own_means(features: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Means (N, C) over the images' own parts of a map (N, C, H, W)."""
    return torch.stack([image[:, :h, :w].mean(dim=(1, 2)) for image, (h, w) in zip(features, sizes, strict=True)])


def _own(features: Tensor, index: Sequence[int], height: int, width: int) -> Tensor:
    # An index that takes all images would copy them.
    chosen = features if len(index) == len(features) else features[index]
    return chosen[..., :height, :width]
