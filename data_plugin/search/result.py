"""What a search has measured: how far each network is from the teacher, on every image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_plugin.space.arch import Arch

CHUNK = 4_096
"""Networks whose divergences on every image are held at once."""


@dataclass(frozen=True)
class TapResult:
    """What was measured at one tap, once for all networks that have the same features there.

    Args:
        rows: each network's row in ``values``, (archs,).
        values: divergence from the teacher per distinct feature map and image, (maps, images), float64.
        variance: the variance of each from drawing rows of the relation, summed up over the images, (maps,); zero
            where all rows were taken.
        entropies: what the distance of Eq. 5 has beyond the divergence, (images,).
    """

    rows: np.ndarray
    values: np.ndarray
    variance: np.ndarray
    entropies: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean divergence of each network, (archs,)."""
        return self.values.mean(axis=1)[self.rows]


@dataclass(frozen=True)
class SearchResult:
    """Divergences of networks from the teacher; lower is closer.

    Args:
        archs: the networks, in no particular order.
        taps: what was measured, by tap.
        images: what identifies each image.
        hashes: SHA-256 of every batch's pixels as the networks saw them.
        parts: per batch, in how many parts it was compared to stay within a memory bound.
    """

    archs: Sequence[Arch]
    taps: Mapping[str, TapResult]
    images: Sequence[str]
    hashes: Sequence[str]
    parts: Sequence[int]

    @cached_property
    def index(self) -> Mapping[Arch, int]:
        """Where each network is."""
        return {arch: i for i, arch in enumerate(self.archs)}

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean divergence of each network, added up over the taps, (archs,)."""
        return np.sum([tap.scores for tap in self.taps.values()], axis=0)

    @cached_property
    def standard_errors(self) -> np.ndarray:
        """Standard error of each score over the images, (archs,); NaN for a single image."""
        return np.concatenate([standard_error(values) for _, values in self._chunks(range(len(self.archs)))])

    @property
    def sampling_errors(self) -> np.ndarray:
        """Standard error of each score from drawing rows of the relation, (archs,).

        It is a part of :attr:`standard_errors`, since the draws of different images are independent.
        """
        variance = np.sum([tap.variance[tap.rows] for tap in self.taps.values()], axis=0)
        return np.sqrt(variance) / len(self.images)

    @property
    def entropy(self) -> float:
        """What the mean distance of Eq. 5 has beyond every score: the entropy of the teacher's own relations."""
        return float(np.sum([tap.entropies.mean() for tap in self.taps.values()]))

    @property
    def data_hash(self) -> str:
        """SHA-256 over the hashes of the batches."""
        return hashlib.sha256("".join(self.hashes).encode()).hexdigest()

    def per_image(self, index: Sequence[int]) -> np.ndarray:
        """Divergences of some of the networks on every image, added up over the taps, (len(index), images)."""
        return np.sum([tap.values[tap.rows[np.asarray(index)]] for tap in self.taps.values()], axis=0)

    def ranking(self, among: Sequence[Arch]) -> list[int]:
        """Indices into ``archs`` of the given networks, closest first."""
        return sorted((self.index[arch] for arch in among), key=lambda i: (self.scores[i], self.archs[i]))

    def apart(self, first: int, others: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """How much further some networks are than another, paired over the images.

        Args:
            first: index of the other.
            others: indices of the networks.

        Returns:
            Mean differences and their standard errors, (len(others),) each; NaN errors for a single image.
        """
        base = self.per_image([first])[0]
        means, errors = [np.empty(0)], [np.empty(0)]
        for _, values in self._chunks(others):
            means.append((values - base).mean(axis=1))
            errors.append(standard_error(values - base))
        return np.concatenate(means), np.concatenate(errors)

    def _chunks(self, index: Sequence[int]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        for start in range(0, len(index), CHUNK):
            chunk = index[start : start + CHUNK]
            yield chunk, self.per_image(chunk)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis; NaN where there is one value."""
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    return values.std(axis=-1, ddof=1) / np.sqrt(count)
