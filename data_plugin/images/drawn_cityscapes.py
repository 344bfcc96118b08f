"""Drawn scenes in Cityscapes' layout: rectangles of a colour a class, to try segmentation on without a download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CITY = "aachen"
"""The folder, one of Cityscapes' cities, that all scenes are in."""

DRAWN = (0, 2, 8, 10, 13)
"""Train ids that occur: road, building, vegetation, sky, car; the rest of a scene is unlabelled, 255."""


def draw_cityscapes(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (96, 64), seed: int = 0) -> None:
    """Write a data set of drawn scenes as Cityscapes has them, with labels as train ids.

    Args:
        root: the folder that gets ``leftImg8bit`` and ``gtFine``.
        counts: images of each split, such as ``{"train": 4, "val": 2}``.
        size: width and height of an image in pixels, at least 24.
        seed: seed of everything drawn.
    """
    random = np.random.default_rng(seed)
    width, height = size
    for split, count in counts.items():
        images, labels = (root / folder / split / CITY for folder in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            label = np.full((height, width), 255, dtype=np.uint8)
            for train_id in DRAWN:
                top, left = random.integers(0, height * 5 // 8), random.integers(0, width * 5 // 8)
                label[top : top + height * 3 // 8, left : left + width * 3 // 8] = train_id
            noise = random.integers(0, 40, (height, width, 3))
            pixels = (label[..., None] * np.array([7, 11, 13]) + noise).astype(np.uint8)
            Image.fromarray(pixels).save(images / f"{CITY}_{index:06d}_leftImg8bit.png")
            Image.fromarray(label).save(labels / f"{CITY}_{index:06d}_gtFine_labelTrainIds.png")
