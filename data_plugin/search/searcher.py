"""Search: which networks of a supernet keep most of its knowledge on given images (DATA, Eq. 3 to 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.features.norm_statistics import statistics_bytes
from data_plugin.features.prefix_tree import prefix, tree_order
from data_plugin.images.batch import ImageBatch, ImageBatches
from data_plugin.search.comparison import NORM_POLICIES, PRECISIONS, Comparison, Networks
from data_plugin.search.distances.relation import TEMPERATURE
from data_plugin.search.memory import FREE_PART, Bound, free_memory, part_of
from data_plugin.search.resume import BatchDistances, PartialSearch
from data_plugin.search.taps import EMBEDDING, check_taps, stage_of
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import from_all, from_first, rank, rank_count

if TYPE_CHECKING:
    from data_plugin.pretrain.methods.method import Method

CALIBRATION_IMAGES = 64
"""Images from which ``recalibrated`` takes its statistics if not told otherwise."""


@dataclass(frozen=True)
class SearchResult:
    """Distances of networks to the teacher; lower is closer.

    Args:
        archs: the networks, in no particular order.
        taps: the feature maps that were compared.
        distances: per tap, network and image, shape (taps, archs, images), float64.
        images: what identifies each image.
        data_hash: SHA-256 over the hashes of the batches' pixels as the networks saw them.
        sampling_variance: per tap and network, the variance from drawing rows of the relation, summed up over the
            images, shape (taps, archs); zero where all rows were taken.
        parts: per batch, in how many parts it was compared to stay within a memory bound.
    """

    archs: Sequence[Arch]
    taps: Sequence[str]
    distances: np.ndarray
    images: Sequence[str]
    data_hash: str
    sampling_variance: np.ndarray
    parts: Sequence[int]

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

    @property
    def sampling_errors(self) -> np.ndarray:
        """Standard error of each score from drawing rows of the relation, shape (archs,).

        It is a part of :attr:`standard_errors`, since the draws of different images are independent.
        """
        return np.sqrt(self.sampling_variance.sum(axis=0)) / len(self.images)

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
    calibration_images: int = CALIBRATION_IMAGES,
    precision: str = "float32",
    rows: int | None = None,
    seed: int = 0,
    max_memory: int | None = None,
    heads: Method | None = None,
    scored: SearchResult | None = None,
    unfinished: PartialSearch | None = None,
    progress: Callable[[float], None] = lambda networks: None,
) -> SearchResult:
    """Measure how far each network is from the teacher on every image.

    The teacher, the key branch at its largest, runs once a batch; the students, subnets of the query branch,
    are walked as a prefix tree, and each distinct feature map is compared once. Where several processes work
    together (:mod:`data_plugin.utils.ranks`), each measures some of the batches, and all return the same result.

    Args:
        query: branch of the students, on the device to compute on; left in evaluation mode, as is ``key``.
        key: branch of the teacher, on the same device.
        archs: the networks to measure.
        batches: images as the task's framework feeds them.
        taps: the feature maps to compare, C2 to C5 (Eq. 5), or ``z``, the embeddings (Eq. 3).
        temperature: of the relation softmax.
        norm: what batch norms normalise with, one of :data:`NORM_POLICIES`; padding is excluded from the
            distances, not from batch statistics.
        calibration_images: images, at least, from which ``recalibrated`` takes its statistics, where there are as many.
        precision: of the features, one of :data:`PRECISIONS`; relations and distances are in float32 or wider.
        rows: draw so many rows of the relation per image and tap, at least 2, the same for all networks; None takes
            all.
        seed: seed of that draw.
        max_memory: bytes of tensors that may be held at once on the device. A batch that needs more is compared in
            parts: with the same result under ``running``, with statistics of the parts where batches give statistics.
            None takes :data:`~data_plugin.search.memory.FREE_PART` of what is free.
        heads: the method whose heads make embeddings, on the same device, for the tap ``z`` alone; see
            :func:`data_plugin.search.distances.embedding.trained_heads`.
        scored: an earlier result of the same search on the same batches; distances of prefixes that it holds are
            taken from it.
        unfinished: keeps every finished batch, and tells which are finished already.
        progress: called with the number of networks that a finished part of a batch has settled.

    Returns:
        Distances per tap, network and image.

    Raises:
        UserError: if there is no network or no image, a tap, policy or precision is unknown, there are too few rows,
            a single image needs more than the memory bound, or features overflow the precision.
    """
    taps = check_taps(taps)
    if not archs:
        raise UserError("there is no network to search among; widen the budget")
    if not len(batches):
        raise UserError("there is no image to search on; expected at least one")
    if norm not in NORM_POLICIES:
        raise UserError(f"the norm policy is {norm!r}; expected one of {', '.join(NORM_POLICIES)}")
    if precision not in PRECISIONS:
        raise UserError(f"the precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if rows is not None and rows < 2:
        raise UserError(f"{rows} rows of the relation were asked for; expected at least 2, or none to take all")
    if taps == (EMBEDDING,) and (heads is None or rows is not None):
        raise UserError("the tap z compares embeddings: it needs the pre-training's heads, and has no rows to draw")
    requested = tree_order(archs)
    where = _where_scored(scored, requested, taps)
    new: np.ndarray = np.any(where < 0, axis=0)
    archs = [arch for arch, is_new in zip(requested, new, strict=True) if is_new]
    before = from_first({} if unfinished is None else unfinished.read())
    settled = len(requested) * len(batches) - len(archs) * (len(batches) - len(before))
    progress(settled / rank_count())  # every process knows of all of them
    if scored is not None and not archs:
        return _filled(scored, requested, where, scored, new)
    todo = [index for index in range(len(batches)) if index not in before][rank() :: rank_count()]
    measured = {}
    last_stage = stage_of(taps[-1])
    sides = ((key, [key.space.largest]), (query, archs))
    held = sum(statistics_bytes(*side, last_stage) for side in sides) if norm == "recalibrated" else 0
    if max_memory is None:
        max_memory = int(FREE_PART * free_memory(next(query.parameters()).device))
    bound = Bound(max_memory, query, key, taps, rows, held)
    with torch.inference_mode():
        teacher, students = (
            Networks(
                branch.eval(),
                among,
                last_stage,
                norm,
                PRECISIONS[precision],
                _calibration(batches, calibration_images, bound),
            )
            for branch, among in sides
        )
        comparison = Comparison(teacher, students, taps, temperature, rows, seed, heads=heads, known=where[:, new] >= 0)
        for index, batch in zip(todo, batches.only(todo), strict=True):
            measured[index] = _measure(comparison, batch, bound, norm, progress)
            if unfinished is not None:
                unfinished.write(index, measured[index])
    found = {index: part for parts in [before, *from_all(measured)] for index, part in parts.items()}
    result = _result(archs, taps, [found[index] for index in range(len(batches))])
    return result if scored is None else _filled(result, requested, where, scored, new)


def merged(results: Sequence[SearchResult]) -> SearchResult:
    """One result of several over the same images; a network that is in more than one is taken once."""
    rows = {arch: found.distances[:, i] for found in results for i, arch in enumerate(found.archs)}
    variances = {arch: found.sampling_variance[:, i] for found in results for i, arch in enumerate(found.archs)}
    parts = np.max([found.parts for found in results], axis=0).tolist()
    first = results[0]
    return SearchResult(
        list(rows),
        first.taps,
        np.stack(list(rows.values()), axis=1),
        first.images,
        first.data_hash,
        np.stack(list(variances.values()), axis=1),
        parts,
    )


def _where_scored(scored: SearchResult | None, archs: Sequence[Arch], taps: Sequence[str]) -> np.ndarray:
    """Per tap and network, a network of an earlier result that has the same features there, or -1."""
    if scored is None:
        return np.full((len(taps), len(archs)), -1)
    where = []
    for tap in taps:
        stage = stage_of(tap)
        held = {prefix(arch, stage): i for i, arch in enumerate(scored.archs)}
        where.append([held.get(prefix(arch, stage), -1) for arch in archs])
    return np.array(where)


def _filled(
    result: SearchResult, archs: Sequence[Arch], where: np.ndarray, scored: SearchResult, new: np.ndarray
) -> SearchResult:
    """The result for all ``archs``, of which ``result`` measured the new ones, and an earlier one scored the others."""
    if list(result.images) != list(scored.images) or tuple(result.taps) != tuple(scored.taps):
        raise ValueError("scored is of other images or taps than this search")
    own = np.maximum(np.cumsum(new) - 1, 0)  # where the result has each network, if it has
    earlier = np.take_along_axis(scored.distances, where[..., None], axis=1)
    distances = np.where(where[..., None] < 0, result.distances[:, own], earlier)
    earlier = np.take_along_axis(scored.sampling_variance, where, axis=1)
    variance = np.where(where < 0, result.sampling_variance[:, own], earlier)
    return replace(result, archs=archs, distances=distances, sampling_variance=variance)


def _calibration(batches: ImageBatches, images: int, bound: Bound) -> Iterator[Tensor]:
    """The images of the first batches, until they are so many."""
    count = 0
    for batch in batches:
        yield from (part.images for part in bound.parts(batch, compared=False))
        count += len(batch.names)
        if count >= images:
            return


def _measure(
    comparison: Comparison, batch: ImageBatch, bound: Bound, norm: str, progress: Callable[[float], None]
) -> BatchDistances:
    todo = bound.parts(batch)
    found = []
    while todo:
        part, *others = todo
        count = len(part.names)
        share = count / len(batch.names)
        try:
            found.append(comparison.distances(part, partial(_advance, progress, share)))
            todo = others
        except torch.OutOfMemoryError as error:
            if norm == "batch" or count == 1:
                raise UserError(
                    f"the memory of the device ran out on {count} images; lower --batch-size, or give --max-memory"
                ) from error
            todo = [part_of(part, 0, count // 2), part_of(part, count // 2, count), *others]
    distances, variances = (np.concatenate(values, axis=2) for values in zip(*found, strict=True))
    if not np.isfinite(distances).all():
        precision = str(comparison.students.precision).removeprefix("torch.")
        hint = "check the supernet's weights" if precision == "float32" else "search with --precision float32"
        raise UserError(f"features of one of {', '.join(batch.names)} are not finite in {precision}; {hint}")
    pixels = batch.images.contiguous().cpu().numpy().tobytes()
    names, sha256 = tuple(batch.names), hashlib.sha256(pixels).hexdigest()
    return BatchDistances(distances, names, sha256, variances.sum(axis=2), len(found))


def _advance(progress: Callable[[float], None], share: float, networks: int) -> None:
    progress(networks * share)


def _result(archs: Sequence[Arch], taps: Sequence[str], found: Sequence[BatchDistances]) -> SearchResult:
    return SearchResult(
        archs=archs,
        taps=taps,
        distances=np.concatenate([batch.distances for batch in found], axis=2),
        images=[name for batch in found for name in batch.images],
        data_hash=hashlib.sha256("".join(batch.sha256 for batch in found).encode()).hexdigest(),
        sampling_variance=np.sum([batch.sampling_variance for batch in found], axis=0),
        parts=[batch.parts for batch in found],
    )


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis; NaN where there is one value."""
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    return values.std(axis=-1, ddof=1) / np.sqrt(count)
