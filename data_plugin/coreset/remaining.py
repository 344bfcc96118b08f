"""The images of an open set that are left, by their similarity to centroids, without all of it in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from data_plugin.features.store import Block, EmbeddingStore
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import from_all, rank, rank_count

ROUNDING = 2.0**-23
"""How far a cosine in single precision may be off, for each dimension: twice its rounding unit."""

AT_ONCE = 4_096
"""Images whose features are in memory in double precision."""


class Remaining:
    """Images that are taken away one after the other, the most similar ones first.

    For each centroid a list of the most similar images is kept, found in one pass over the store. A list that runs out
    is made anew from what is left then, twice as long, and the others with it. The pass is in single precision, the
    lists are in double: what is left out of a list was too far away in single precision already, by more than that may
    be off. Under several processes each passes over a part of the blocks, and all come to the same lists; they have to
    ask for the same.

    Args:
        store: the images.
        centroids: (K, C), see :func:`~data_plugin.coreset.centroids.centroids_of`.
        length: how many images a list holds at first, at the most.
        without: images that are left out from the start.
    """

    def __init__(self, store: EmbeddingStore, centroids: np.ndarray, length: int, without: Iterable[int] = ()) -> None:
        self.store = store
        self.centroids = centroids
        self.length = length
        self.removed = set(without)
        self._look_again()

    def nearest(self, centroid: int) -> tuple[int, float] | None:
        """The most similar image to a centroid and its cosine; of equally similar ones the first; None if none is left.

        Args:
            centroid: its number.
        """
        while True:
            found = self.lists[centroid]
            while self.places[centroid] < len(found.images):
                image = int(found.images[self.places[centroid]])
                if image not in self.removed:
                    return image, float(found.similarities[self.places[centroid]])
                self.places[centroid] += 1
            if found.bound == -np.inf:
                return None
            self.length *= 2
            self._look_again()

    def remove(self, images: Iterable[int]) -> None:
        """Take images away."""
        self.removed.update(images)

    def _look_again(self) -> None:
        removed = np.array(sorted(self.removed), dtype=np.int64)
        centroids = torch.from_numpy(self.centroids).float()
        # The same memory for all blocks: where it comes and goes between lists that grow, it is not given back.
        shape = self.store.header.shard_size, self.store.header.dim
        half, single = torch.empty(shape, dtype=torch.float16), torch.empty(shape)
        own = [_TopList(self.length) for _ in self.centroids]
        blocks = range(rank(), len(self.store), rank_count())
        with progress_over(len(blocks), "shards") as advance:
            for block in map(self.store.__getitem__, blocks):
                count = len(block.features)
                np.copyto(half[:count].numpy(), block.features)
                similar = (centroids @ single[:count].copy_(half[:count]).T).numpy()
                self._require_finite(block, similar)
                first, end = np.searchsorted(removed, [block.start, block.start + len(block.features)])
                similar[:, removed[first:end] - block.start] = -np.inf
                for top, row in zip(own, similar, strict=True):
                    top.add(row, block.start)
                advance(1)
        # Of each process one list for each centroid.
        self.lists = [_merged(lists) for lists in zip(*from_all(self._exact(own)), strict=True)]
        self.places = [0] * len(self.lists)

    def _require_finite(self, block: Block, similar: np.ndarray) -> None:
        finite = np.isfinite(similar).all(axis=0)
        if not finite.all():
            name = block.names[int(finite.argmin())]
            raise UserError(f"{self.store.folder} holds a feature that is not finite, of {name}; embed them again")

    def _exact(self, lists: Sequence[_TopList]) -> list[_Nearest]:
        """The lists in double precision."""
        rough = [each.sorted() for each in lists]
        images = np.concatenate([found for _, found in rough])
        centroids = np.repeat(np.arange(len(rough)), [len(found) for _, found in rough])
        similarities = np.empty(len(images))
        order = np.argsort(images, kind="stable")
        for part in np.array_split(order, math.ceil(len(order) / AT_ONCE) or 1):
            features = self.store.features(images[part]).astype(np.float64)
            # Row by row, so that the same image has the same cosine wherever it lies.
            similarities[part] = np.einsum("nc,nc->n", features, self.centroids[centroids[part]])
        slack = self.centroids.shape[1] * ROUNDING
        bounds = [float(found[-1]) + slack if len(found) == self.length else -np.inf for found, _ in rough]
        ends = np.cumsum([len(found) for found, _ in rough])[:-1]
        parts = zip(np.split(similarities, ends), np.split(images, ends), bounds, strict=True)
        return [_Nearest(*each) for each in parts]


class _Nearest(NamedTuple):
    """Images that are near a centroid.

    Args:
        similarities: their cosines with it.
        images: which they are.
        bound: no image that is missing is more similar than this; minus infinity where none is missing.
    """

    similarities: np.ndarray
    images: np.ndarray
    bound: float


class _TopList:
    """The most similar images so far."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.least = -np.inf
        self.similarities: list[np.ndarray] = [np.empty(0, np.float32)]
        self.images: list[np.ndarray] = [np.empty(0, np.int64)]
        self.waiting = 0

    def add(self, similarities: np.ndarray, start: int) -> None:
        """See the images from ``start`` on."""
        better = np.flatnonzero(similarities > self.least)
        self.similarities.append(similarities[better])
        self.images.append(better + start)
        self.waiting += len(better)
        if self.waiting > self.length:
            similar, images = self.sorted()
            self.similarities, self.images, self.waiting = [similar], [images], 0
            if len(similar) == self.length:
                self.least = similar[-1]

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and images, the most similar first."""
        similarities, images = np.concatenate(self.similarities), np.concatenate(self.images)
        order = np.argsort(-similarities, kind="stable")[: self.length]
        return similarities[order], images[order]


def _merged(lists: Sequence[_Nearest]) -> _Nearest:
    """One list of several, the most similar first and of equal ones the earlier, as far as nothing can be missing."""
    similarities, images = (np.concatenate(parts) for parts in list(zip(*lists, strict=True))[:2])
    bound = max(each.bound for each in lists)
    sure = similarities > bound
    similarities, images = similarities[sure], images[sure]
    order = np.lexsort((images, -similarities))
    return _Nearest(similarities[order], images[order], bound)
