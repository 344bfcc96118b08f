"""Views of images for self-supervised training, each a function of seed, epoch and image and of nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data_plugin.pretrain.image_folder import ImageFolder

Transform = Callable[[Image.Image], Sequence[Tensor]]
"""Makes the views of an image, each (3, H, W), drawing from the global generators of torch and numpy."""


class Draw(NamedTuple):
    """An image in an epoch: what decides its views, together with the seed."""

    epoch: int
    image: int


class Batch(NamedTuple):
    """Views of some images.

    Args:
        views: per view of an image, a tensor (N, 3, H, W).
        unreadable: names of images that could not be read, in whose place the next readable ones stand.
    """

    views: list[Tensor]
    unreadable: list[str]


class Views(Dataset[tuple[Sequence[Tensor], list[str]]]):
    """The views of an image for every :class:`Draw`, and the names of the unreadable images passed over for it.

    Args:
        images: the images.
        transform: makes the views.
        seed: the same seed gives the same views, however many processes make them.
    """

    def __init__(self, images: ImageFolder, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Sequence[Tensor], list[str]]:
        unreadable: list[str] = []
        for offset in range(len(self.images)):
            index = (draw.image + offset) % len(self.images)
            image = self.images.read(index)
            if image is not None:
                with _seeded(self.seed, *draw):
                    return self.transform(image), unreadable
            unreadable.append(self.images.names[index])
        return [], unreadable


def collate(samples: Sequence[tuple[Sequence[Tensor], list[str]]]) -> Batch:
    """Put samples of :class:`Views` together; without one readable image there are no views."""
    views, unreadable = zip(*samples, strict=True)
    return Batch([torch.stack(view) for view in zip(*views, strict=True)], list(itertools.chain(*unreadable)))


class EpochStream(Sampler[Draw]):
    """Epoch after epoch without a seam, each in a random order of its own, from any position on.

    As in detectron2's ``TrainingSampler``, a batch may hold the end of one epoch and the start of the next. The
    position is all the state there is, so a training that was stopped goes on with the very image that was next.

    Args:
        count: number of images.
        total: number of draws in the whole training.
        start: draws that were made before.
        seed: the same seed gives the same order.
    """

    def __init__(self, count: int, total: int, start: int = 0, seed: int = 0) -> None:
        self.count = count
        self.total = total
        self.start = start
        self.seed = seed

    def __iter__(self) -> Iterator[Draw]:
        position = self.start
        while position < self.total:
            epoch, first = divmod(position, self.count)
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            for image in order[first : first + self.total - position].tolist():
                yield Draw(epoch, image)
            position += self.count - first

    def __len__(self) -> int:
        """Draws in the whole training, those before ``start`` included, which the loop has counted already."""
        return self.total


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Within, the global CPU generators of torch and numpy depend on ``key`` only; after it they are as before."""
    torch_seed, numpy_seed = np.random.SeedSequence(key).generate_state(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    torch.default_generator.manual_seed(int(torch_seed))
    np.random.seed(int(numpy_seed))
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
