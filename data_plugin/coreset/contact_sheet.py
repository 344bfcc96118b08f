"""Pictures of what centroids took, beside the target's images that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_plugin.coreset.chosen import Coreset
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.thumbnails import Thumbnail, thumbnails

ROWS, LIKE, TOOK = 12, 4, 8
"""Centroids on the sheet, the target's images beside each, and the images that it took."""


@dataclass(frozen=True)
class Row:
    """One centroid.

    Args:
        like: the target's images that are nearest to it.
        took: the first images that it took.
    """

    like: Sequence[Thumbnail]
    took: Sequence[Thumbnail]


def contact_sheet(
    coreset: Coreset, opened: EmbeddingStore, target: np.ndarray, targets: EmbeddingStore, centroids: np.ndarray
) -> list[Row]:
    """Rows for some of the centroids, evenly among all; none where no centroid took anything.

    Args:
        coreset: what was chosen.
        opened: the open set.
        target: the target's features (N, C).
        targets: the target.
        centroids: (K, C).
    """
    rounds = coreset.chosen.rounds[:TOOK]
    if not rounds:
        return []
    kept = set(coreset.chosen.images)
    rows = []
    for centroid in np.unique(np.linspace(0, len(centroids) - 1, ROWS).round().astype(int)).tolist():
        nearest = np.argsort(-(target @ centroids[centroid]), kind="stable")[:LIKE]
        took = [image for each in rounds if (image := each.images[centroid]) in kept]
        rows.append((targets.paths(nearest), opened.paths(took)))
    pictures = thumbnails(path for row in rows for paths in row for path in paths)
    return [Row(*([pictures[path] for path in paths] for paths in row)) for row in rows]
