"""Successive halving over images: all networks see few images, and those that are surely behind see no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from data_plugin.search.searcher import SearchResult
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError

ROUNDS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Part of the images that has been seen after each round."""


@dataclass(frozen=True)
class Halving:
    """What is left of the candidates, and what was dropped on the way.

    Args:
        result: distances of the networks that saw all images.
        dropped: the other networks, with the images that they saw and their mean distance on these.
        confidence: per round and budget, that every dropped network is further than one that was kept.
    """

    result: SearchResult
    dropped: Mapping[Arch, tuple[int, float]]
    confidence: float


def halve(
    measure: Callable[[int, Sequence[Arch], Sequence[int]], SearchResult],
    candidates: Mapping[str, Sequence[Arch]],
    batches: int,
    confidence: float = 0.95,
) -> Halving:
    """Search in rounds of more and more images, dropping networks that are surely behind.

    A network is dropped from a budget when the closest one there is closer in a paired, one-sided t test, corrected
    for all pairs; one that is in no budget any more sees no further images.

    Args:
        measure: takes the number of a round, networks and indices of batches, and returns their distances.
        candidates: by budget, its networks.
        batches: number of batches.
        confidence: of the test, between 0.5 and 1.

    Raises:
        UserError: if the confidence is out of range.
    """
    if not 0.5 < confidence < 1:
        raise UserError(f"the confidence is {confidence}; expected more than 0.5 and less than 1")
    alive = {budget: list(archs) for budget, archs in candidates.items()}
    seen: SearchResult | None = None
    dropped: dict[Arch, tuple[int, float]] = {}
    start = 0
    for number, part in enumerate(ROUNDS):
        end = max(start, round(part * batches)) if part < 1 else batches
        if end == start:
            continue
        archs = sorted({arch for found in alive.values() for arch in found})
        found = measure(number, archs, range(start, end))
        seen = found if seen is None else _joined(seen, found)
        start = end
        if start < batches:
            alive = {budget: _not_behind(seen, archs, confidence) for budget, archs in alive.items()}
            kept = {arch for archs in alive.values() for arch in archs}
            means = dict(zip(seen.archs, seen.scores, strict=True))
            dropped.update({a: (len(seen.images), float(means[a])) for a in archs if a not in kept})
    assert seen is not None
    return Halving(seen, dropped, confidence)


def _not_behind(result: SearchResult, archs: Sequence[Arch], confidence: float) -> list[Arch]:
    images = len(result.images)
    if images < 3:
        return list(archs)
    rows = {arch: i for i, arch in enumerate(result.archs)}
    values = result.per_image[[rows[arch] for arch in archs]]
    apart = values - values[values.mean(axis=1).argmin()]
    # The closest was picked after looking, so the test has to hold for every pair at once (Bonferroni).
    pairs = len(archs) * (len(archs) - 1) / 2 or 1
    bound = student_t.ppf(1 - (1 - confidence) / pairs, images - 1) * apart.std(axis=1, ddof=1) / np.sqrt(images)
    return [arch for arch, behind in zip(archs, apart.mean(axis=1) > bound, strict=True) if not behind]


def _joined(before: SearchResult, now: SearchResult) -> SearchResult:
    """The networks of ``now`` on the images of both."""
    rows = {arch: i for i, arch in enumerate(before.archs)}
    earlier = before.distances[:, [rows[arch] for arch in now.archs]]
    return SearchResult(
        archs=now.archs,
        taps=now.taps,
        distances=np.concatenate([earlier, now.distances], axis=2),
        images=[*before.images, *now.images],
        data_hash=before.data_hash + now.data_hash,
        sampling_variance=before.sampling_variance[:, [rows[arch] for arch in now.archs]] + now.sampling_variance,
        parts=[*before.parts, *now.parts],
    )
