"""The images of an open set that are left, by their similarity to centroids, without all of it in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from data_plugin.features.store import Block, EmbeddingStore
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import from_all, rank, rank_count


class Remaining:
    """Images that are taken away one after the other, the most similar ones first.

    For each centroid a list of the most similar images is kept, found in one pass over the store. A list that runs out
    is made anew from what is left then, twice as long, and the others with it. Under several processes each passes over
    a part of the blocks, and all come to the same lists; they have to ask for the same.

    Args:
        store: the images.
        centroids: (K, C), see :func:`~data_plugin.coreset.centroids.centroids_of`.
        length: how many images a list holds at first.
        without: images that are left out from the start.
    """

    def __init__(self, store: EmbeddingStore, centroids: np.ndarray, length: int, without: Iterable[int] = ()) -> None:
        self.store = store
        self.centroids = torch.from_numpy(centroids)
        self.length = length
        self.removed = set(without)
        self._look_again()

    def nearest(self, centroid: int) -> tuple[int, float] | None:
        """The most similar image to a centroid and its cosine; of equally similar ones the first; None if none is left.

        Args:
            centroid: its number.
        """
        while True:
            similarities, images = self.lists[centroid]
            while self.places[centroid] < len(images):
                image = int(images[self.places[centroid]])
                if image not in self.removed:
                    return image, float(similarities[self.places[centroid]])
                self.places[centroid] += 1
            if len(images) < self.length:
                return None
            self.length *= 2
            self._look_again()

    def remove(self, images: Iterable[int]) -> None:
        """Take images away."""
        self.removed.update(images)

    def _look_again(self) -> None:
        removed = np.array(sorted(self.removed), dtype=np.int64)
        own = [_TopList(self.length) for _ in self.centroids]
        blocks = range(rank(), len(self.store), rank_count())
        with progress_over(len(blocks), "shards") as advance:
            for block in map(self.store.__getitem__, blocks):
                similar = self._similarities(block)
                first, end = np.searchsorted(removed, [block.start, block.start + len(block.features)])
                similar[:, removed[first:end] - block.start] = -np.inf
                for top, row in zip(own, similar, strict=True):
                    top.add(row, block.start)
                advance(1)
        # Of each process one list for each centroid.
        found = from_all([top.sorted() for top in own])
        self.lists = [_merged(lists, self.length) for lists in zip(*found, strict=True)]
        self.places = [0] * len(self.lists)

    def _similarities(self, block: Block) -> np.ndarray:
        """Cosines (K, N) with the images of a block."""
        # By way of single precision it is faster.
        features = torch.from_numpy(np.array(block.features)).float().double()
        similar = (self.centroids @ features.T).numpy()
        finite = np.isfinite(similar).all(axis=0)
        if not finite.all():
            name = block.names[int(finite.argmin())]
            raise UserError(f"{self.store.folder} holds a feature that is not finite, of {name}; embed them again")
        return similar


class _TopList:
    """The most similar images so far."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.least = -np.inf
        self.similarities: list[np.ndarray] = [np.empty(0)]
        self.images: list[np.ndarray] = [np.empty(0, np.int64)]
        self.waiting = 0

    def add(self, similarities: np.ndarray, start: int) -> None:
        """See images that come behind all those that were seen, the first of which is ``start``."""
        # Of equally similar images the earlier one is in the list already.
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
        """Similarities and images, the most similar first, of equal ones the earlier."""
        similarities, images = np.concatenate(self.similarities), np.concatenate(self.images)
        order = np.argsort(-similarities, kind="stable")[: self.length]
        return similarities[order], images[order]


def _merged(lists: Iterable[tuple[np.ndarray, np.ndarray]], length: int) -> tuple[np.ndarray, np.ndarray]:
    similarities, images = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    order = np.lexsort((images, -similarities))[:length]
    return similarities[order], images[order]
