"""Batches of images as a framework's model sees them, drawn and put together in the same way for every framework."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class LoadedImage:
    """One image as the framework's model would see it.

    Args:
        pixels: (3, H, W), normalised by the framework; may be padded at the right and bottom.
        size: height and width without that padding.
    """

    pixels: Tensor
    size: tuple[int, int]


class ImageSource(ABC):
    """Unlabelled images through a framework's own loader and test-time preprocessing.

    Args:
        names: what identifies each image, such as a file name.
        workers: processes that read images; 0 reads them in this one.

    Raises:
        ValueError: if ``workers`` is no number of at least 0.
    """

    def __init__(self, names: Sequence[str], workers: int = 0) -> None:
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers is {workers!r}; expected a number of at least 0")
        self.names = names
        self.workers = workers

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> LoadedImage:
        """One image.

        Raises:
            UserError: naming it, if it cannot be read in full.
        """


@dataclass(frozen=True)
class ImageBatch:
    """Images as the framework's model would see them.

    Args:
        images: (N, 3, H, W), normalised by the framework and padded to one size at the right and bottom.
        sizes: height and width of each image without the padding.
        names: what identifies each image in its data set, such as a file name.
    """

    images: Tensor
    sizes: Sequence[tuple[int, int]]
    names: Sequence[str]


class ImageBatches:
    """Some images of a source in a fixed order and in fixed batches; iterating again starts again.

    Args:
        source: the images.
        parts: for each batch the indices of its images.
    """

    def __init__(self, source: ImageSource, parts: Sequence[Sequence[int]]) -> None:
        self.source = source
        self.parts = parts

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.parts)

    def only(self, indices: Sequence[int]) -> ImageBatches:
        """Some of the batches, in the order given, without reading the others."""
        return ImageBatches(self.source, [self.parts[index] for index in indices])

    def __iter__(self) -> Iterator[ImageBatch]:
        """The batches from the start.

        Raises:
            UserError: naming the first image that cannot be read.
        """
        loader = DataLoader(
            _Readable(self.source),
            batch_sampler=self.parts,  # type: ignore[arg-type]
            num_workers=self.source.workers if self.parts else 0,
            collate_fn=_padded,
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch


def draw_batches(source: ImageSource, count: int | None, batch_size: int, seed: int) -> ImageBatches:
    """Draw images of a source and deal them into batches of about equal size, in random order.

    The draw goes by the images' names, so that sources of the same images in another order, as other frameworks have
    them, give the same images in the same batches. Its first images are a fair sample of all of it.

    Args:
        source: the images.
        count: draw this many images; None takes all.
        batch_size: most images of a batch.
        seed: the same seed draws the same images.

    Raises:
        UserError: if there is no image, or ``count`` or ``batch_size`` is below 1.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    if not len(source):
        raise UserError("the data set holds no image; expected at least one")
    if count is not None and count > len(source):
        warnings.warn(f"{count} images were asked for, but there are {len(source)}: all are taken", stacklevel=2)
    by_name = np.array(sorted(range(len(source)), key=lambda index: (source.names[index], index)))
    order = by_name[np.random.default_rng(seed).permutation(len(by_name))[:count]]
    parts = np.array_split(order, math.ceil(len(order) / batch_size))
    return ImageBatches(source, [part.tolist() for part in parts])


class _Readable(Dataset[tuple[str, "LoadedImage | str"]]):
    """Gives a sentence in place of an image that cannot be read, since exceptions lose their text between processes."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> tuple[str, LoadedImage | str]:
        name = self.source.names[index]
        try:
            return name, self.source[index]
        except UserError as error:
            return name, str(error)


def _padded(samples: Sequence[tuple[str, LoadedImage | str]]) -> ImageBatch | str:
    """One batch of all images, or the sentence about the first that cannot be read."""
    names, loaded = zip(*samples, strict=True)
    for image in loaded:
        if isinstance(image, str):
            return image
    height, width = (max(image.pixels.shape[axis] for image in loaded) for axis in (-2, -1))
    padded = [
        F.pad(image.pixels, (0, width - image.pixels.shape[-1], 0, height - image.pixels.shape[-2])) for image in loaded
    ]
    return ImageBatch(torch.stack(padded), [image.size for image in loaded], list(names))
