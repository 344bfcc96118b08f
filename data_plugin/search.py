"""Search: which networks of a supernet keep most of its knowledge on given images (DATA, Eq. 3 to 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import Tensor

from data_plugin.arch import Arch
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import batch_statistics
from data_plugin.errors import UserError
from data_plugin.framework import ImageBatch, ImageBatches
from data_plugin.partial_search import BatchDistances, PartialSearch
from data_plugin.prefix_tree import Stages, Visit, tree_order, walk
from data_plugin.ranks import from_all, from_first, rank, rank_count
from data_plugin.recalibration import Recalibrated
from data_plugin.relation import TEMPERATURE, TeacherRelation
from data_plugin.taps import STAGE_TAPS, check_taps

NORM_POLICIES = ("batch", "recalibrated", "running")
"""What batch norms normalise with.

The statistics of the batch at hand; every network's own over the first :data:`CALIBRATION_IMAGES` images, which costs
one more walk; or the supernet's running ones, which mix those of all its networks.
"""

CALIBRATION_IMAGES = 64
"""Images, at least, from which ``recalibrated`` takes its statistics, where there are as many."""


@dataclass(frozen=True)
class SearchResult:
    """Distances of networks to the teacher; lower is closer.

    Args:
        archs: the networks, in no particular order.
        taps: the feature maps that were compared.
        distances: per tap, network and image, shape (taps, archs, images), float64.
        images: what identifies each image.
        data_hash: SHA-256 over the hashes of the batches' pixels as the networks saw them.
    """

    archs: Sequence[Arch]
    taps: Sequence[str]
    distances: np.ndarray
    images: Sequence[str]
    data_hash: str

    @property
    def per_image(self) -> np.ndarray:
        """Distances added up over the taps, shape (archs, images)."""
        return self.distances.sum(axis=0)

    @property
    def scores(self) -> np.ndarray:
        """Mean distance per network, shape (archs,)."""
        return self.per_image.mean(axis=1)

    @property
    def standard_errors(self) -> np.ndarray:
        """Standard error of each score over the images, shape (archs,); NaN for a single image."""
        return _standard_error(self.per_image)

    def ranking(self, among: Sequence[Arch]) -> list[int]:
        """Indices into ``archs`` of the given networks, closest first."""
        index = {arch: i for i, arch in enumerate(self.archs)}
        scores = self.scores
        return sorted((index[arch] for arch in among), key=lambda i: (scores[i], self.archs[i]))

    def margin(self, closer: int, other: int) -> tuple[float, float]:
        """How much further network ``other`` is than ``closer``, paired over the images, and its standard error."""
        apart = self.per_image[other] - self.per_image[closer]
        return float(apart.mean()), float(_standard_error(apart[None])[0])


def search(
    query: DynamicResNet,
    key: DynamicResNet,
    archs: Sequence[Arch],
    batches: ImageBatches,
    taps: Sequence[str],
    *,
    temperature: float = TEMPERATURE,
    norm: str = "batch",
    unfinished: PartialSearch | None = None,
    progress: Callable[[int], None] = lambda networks: None,
) -> SearchResult:
    """Measure how far each network is from the teacher on every image.

    The teacher, the key branch at its largest, runs once a batch; the students, subnets of the query branch,
    are walked as a prefix tree, and each distinct feature map is compared once. Where several processes work
    together (:mod:`data_plugin.ranks`), each measures some of the batches, and all return the same result.

    Args:
        query: branch of the students, on the device to compute on; left in evaluation mode, as is ``key``.
        key: branch of the teacher, on the same device.
        archs: the networks to measure.
        batches: images as the task's framework feeds them.
        taps: the feature maps to compare, names of :data:`STAGE_TAPS`.
        temperature: of the relation softmax.
        norm: what batch norms normalise with, one of :data:`NORM_POLICIES`; padding is excluded from the
            distances, not from batch statistics.
        unfinished: keeps every finished batch, and tells which are finished already.
        progress: called with the number of networks that a finished part of a batch has settled.

    Returns:
        Distances per tap, network and image.

    Raises:
        UserError: if there is no network or no image, or a tap or policy is unknown.
    """
    taps = check_taps(taps)
    if not archs:
        raise UserError("there is no network to search among; widen the budget")
    if not len(batches):
        raise UserError("there is no image to search on; expected at least one")
    if norm not in NORM_POLICIES:
        raise UserError(f"the norm policy is {norm!r}; expected one of {', '.join(NORM_POLICIES)}")
    archs = tree_order(archs)
    before = from_first({} if unfinished is None else unfinished.read())
    progress(len(archs) * len(before))
    todo = [index for index in range(len(batches)) if index not in before][rank() :: rank_count()]
    measured = {}
    with torch.inference_mode():
        teacher = _Normalised(key.eval(), [key.space.largest], taps, norm, batches)
        students = _Normalised(query.eval(), archs, taps, norm, batches)
        for index, batch in zip(todo, batches.only(todo), strict=True):
            measured[index] = _measure(teacher, students, batch, taps, temperature, progress)
            if unfinished is not None:
                unfinished.write(index, measured[index])
    found = {index: part for parts in [before, *from_all(measured)] for index, part in parts.items()}
    return _result(archs, taps, [found[index] for index in range(len(batches))])


def merged(results: Sequence[SearchResult]) -> SearchResult:
    """One result of several over the same images; a network that is in more than one is taken once."""
    rows = {arch: found.distances[:, i] for found in results for i, arch in enumerate(found.archs)}
    distances = np.stack(list(rows.values()), axis=1)
    first = results[0]
    return SearchResult(list(rows), first.taps, distances, first.images, first.data_hash)


class _Normalised:
    """Networks of one branch, to be walked over with a norm policy."""

    def __init__(
        self, network: DynamicResNet, archs: Sequence[Arch], taps: Sequence[str], norm: str, batches: ImageBatches
    ) -> None:
        self.archs = archs
        self.device = next(network.parameters()).device
        self.last_stage = STAGE_TAPS.index(taps[-1])
        self.stages: Callable[[], AbstractContextManager[Stages[Tensor]]] = lambda: nullcontext(network)
        if norm == "recalibrated":
            images = (batch.images.to(self.device) for batch in _first_images(batches))
            self.stages = Recalibrated(network, archs, self.last_stage, images).walked
        elif norm == "batch":
            self.stages = partial(batch_statistics, network)

    def walk(self, images: Tensor, visit: Visit) -> None:
        with self.stages() as stages:
            walk(stages, images.to(self.device), self.archs, self.last_stage, visit)


def _first_images(batches: ImageBatches) -> Iterator[ImageBatch]:
    """The first batches, until they hold :data:`CALIBRATION_IMAGES`."""
    count = 0
    for batch in batches:
        yield batch
        count += len(batch.names)
        if count >= CALIBRATION_IMAGES:
            return


def _measure(
    teacher: _Normalised,
    students: _Normalised,
    batch: ImageBatch,
    taps: Sequence[str],
    temperature: float,
    progress: Callable[[int], None],
) -> BatchDistances:
    stages = [STAGE_TAPS.index(tap) for tap in taps]
    teachers: dict[int, _Teacher] = {}
    distances = np.zeros((len(taps), len(students.archs), len(batch.names)))

    def keep(stage: int, features: Tensor, first: int, end: int) -> None:
        if stage in stages:
            teachers[stage] = _Teacher(features, batch, temperature)

    def visit(stage: int, features: Tensor, first: int, end: int) -> None:
        if stage in teachers:
            distances[stages.index(stage), first:end] = teachers[stage].distance(features).cpu().numpy()
        if stage == stages[-1]:
            progress(end - first)

    teacher.walk(batch.images, keep)
    students.walk(batch.images, visit)
    pixels = batch.images.contiguous().cpu().numpy().tobytes()
    return BatchDistances(distances, tuple(batch.names), hashlib.sha256(pixels).hexdigest())


def _result(archs: Sequence[Arch], taps: Sequence[str], parts: Sequence[BatchDistances]) -> SearchResult:
    distances = np.concatenate([part.distances for part in parts], axis=2)
    names = [name for part in parts for name in part.images]
    data_hash = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return SearchResult(archs, taps, distances, names, data_hash)


class _Teacher:
    """The teacher's maps of one batch and stage, compared image by image without the padding."""

    def __init__(self, features: Tensor, batch: ImageBatch, temperature: float) -> None:
        height, width = batch.images.shape[-2:]
        # A position is an image's own if the image reaches into the patch of pixels that it stands for.
        down, across = height / features.shape[-2], width / features.shape[-1]
        sizes = [(ceil(h / down), ceil(w / across)) for h, w in batch.sizes]
        self.groups = [(size, [i for i, other in enumerate(sizes) if other == size]) for size in sorted(set(sizes))]
        self.relations = [TeacherRelation(features[index, :, :h, :w], temperature) for (h, w), index in self.groups]
        self.count = len(sizes)

    def distance(self, features: Tensor) -> Tensor:
        distances = torch.empty(self.count, dtype=torch.float64, device=features.device)
        for ((height, width), index), relation in zip(self.groups, self.relations, strict=True):
            distances[index] = relation.distance(features[index, :, :height, :width])
        return distances


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis; NaN where there is one value."""
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    return values.std(axis=-1, ddof=1) / np.sqrt(count)
