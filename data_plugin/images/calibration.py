"""Images to calibrate batch-norm statistics on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_plugin.images.crops import Transform
from data_plugin.images.image_files import Images
from data_plugin.images.labelled import unreadable
from data_plugin.images.open import open_images
from data_plugin.utils.errors import UserError


class _Unlabelled(Dataset[Tensor]):
    def __init__(self, images: Images, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, index: int) -> Tensor:
        image = self.images.read(index)
        if image is None:
            raise unreadable(self.images.root / self.images.names[index])
        return self.transform(image)


def calibration_images(
    root: Path, transform: Transform, count: int, batch_size: int, seed: int, workers: int = 0
) -> DataLoader[Tensor]:
    """Batches (N, 3, size, size) of images drawn at random, whatever they are images of.

    Args:
        root: the images, see :func:`open_images`.
        transform: makes the input of a network.
        count: images that are drawn; all where there are fewer. A batch that is not full is left out, for every batch
            counts the same in the statistics.
        batch_size: images per batch; all drawn ones where they are fewer.
        seed: the same seed draws the same images.
        workers: processes that read images; 0 reads them in this one.

    Raises:
        UserError: if there are no such images, one that is drawn cannot be read, or ``count`` is below 1.
    """
    if count < 1:
        raise UserError(f"{count} images to calibrate on were asked for; expected at least 1")
    images = open_images(root)
    drawn = np.random.default_rng(seed).permutation(len(images))[:count].tolist()
    return DataLoader(
        _Unlabelled(images, transform),
        batch_size=min(batch_size, len(drawn)),
        sampler=drawn,
        num_workers=workers,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
