"""Pictures of what centroids took, beside the target's images that they stand for."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_plugin.coreset.chosen import Coreset
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.image_list import NamedImages

ROWS, LIKE, TOOK = 12, 4, 8
"""Centroids on the sheet, the target's images beside each, and the images that it took."""

PIXELS = 96
"""The longer side of a picture."""


@dataclass(frozen=True)
class Picture:
    """One image.

    Args:
        name: what it is called.
        data: its pixels as a ``data:`` address; None if it cannot be read any more.
    """

    name: str
    data: str | None


@dataclass(frozen=True)
class Row:
    """One centroid.

    Args:
        like: the target's images that are nearest to it.
        took: the first images that it took.
    """

    like: Sequence[Picture]
    took: Sequence[Picture]


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
    pictures = _pictures({path for row in rows for paths in row for path in paths})
    return [Row(*([Picture(path, pictures[path]) for path in paths] for paths in row)) for row in rows]


def _pictures(paths: Iterable[str]) -> dict[str, str | None]:
    """The pixels of images, by their paths."""
    images = NamedImages(Path(), sorted(paths))
    return {path: _data(images.read(index)) for index, path in enumerate(images.names)}


def _data(image: Image.Image | None) -> str | None:
    if image is None:
        return None
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
