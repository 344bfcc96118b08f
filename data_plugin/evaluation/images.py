"""Images for evaluation: labelled folders, and the labelled part of one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.datasets import ImageFolder

from data_plugin.images.crops import Transform


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Labelled images, each made the input of a network in the same way every time.

    Args:
        images: the images.
        transform: makes the input.
    """

    def __init__(self, images: ImageFolder, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label

    def __len__(self) -> int:
        return len(self.images)


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Labelled images with random changes that depend on seed, epoch and image alone.

    Args:
        images: the images.
        transform: changes an image, drawing from torch's global generator.
        seed: the same seed gives the same changes, however many processes make them.
    """

    def __init__(self, images: ImageFolder, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = draw
        image, label = self.images[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]))
            return self.transform(image), label


class EpochShuffle(Sampler[tuple[int, int]]):
    """All given images once an epoch, each time in another order; what :class:`AugmentedImages` takes.

    Args:
        indices: the images.
        seed: the same seed gives the same orders.
    """

    def __init__(self, indices: list[int], seed: int) -> None:
        self.indices = indices
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, the first after a resume included."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.indices)
        return ((self.epoch, index) for index in order.tolist())

    def __len__(self) -> int:
        return len(self.indices)
