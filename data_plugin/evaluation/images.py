"""Images for evaluation: labelled folders, the labelled part of one, and images to calibrate on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from data_plugin.images.image_folder import ImageFolder as UnlabelledFolder
from data_plugin.images.input_format import InputFormat
from data_plugin.images.labelled import unreadable
from data_plugin.supernet.checkpoint import SupernetInfo
from data_plugin.utils.errors import UserError

Transform = Callable[[Image.Image], Tensor]
"""Makes the input of a network, (3, size, size), of an image."""


def pretrained_size(path: str | os.PathLike[str], info: SupernetInfo) -> int:
    """Height and width of the images of a supernet's pre-training in pixels.

    Args:
        path: the supernet's file, for the message.
        info: what its header says.

    Raises:
        UserError: if it does not say.
    """
    size = info.training.get("image_size")
    if not isinstance(size, int):
        name = os.fspath(path)
        raise UserError(f"{name} does not say at which image size it was pre-trained; give one with --image-size")
    return size


def centre_crop(size: int, input_format: InputFormat) -> Transform:
    """Resize the shorter side to 256/224 of ``size`` and cut out the centre, as the 1-crop protocol of ImageNet.

    Args:
        size: height and width of the result.
        input_format: channel order and normalisation.

    Raises:
        UserError: if the size is below 1.
    """
    if size < 1:
        raise UserError(f"the image size is {size}; expected a number of pixels above 0")
    return v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), *_normalised(input_format)])


def random_crop(size: int, input_format: InputFormat) -> Transform:
    """Cut out 8 to 100 % of the area at random, resize it to ``size``, and mirror half of the images.

    Args:
        size: height and width of the result.
        input_format: channel order and normalisation.
    """
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *_normalised(input_format)])


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


class _Unlabelled(Dataset[Tensor]):
    def __init__(self, images: UnlabelledFolder, transform: Transform) -> None:
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
    """Batches (N, 3, size, size) of images drawn at random from a folder, whatever its sub-folders mean.

    Args:
        root: the folder.
        transform: makes the input of a network.
        count: images that are drawn; all where there are fewer. A batch that is not full is left out, for every batch
            counts the same in the statistics.
        batch_size: images per batch; all drawn ones where they are fewer.
        seed: the same seed draws the same images.
        workers: processes that read images; 0 reads them in this one.

    Raises:
        UserError: if there is no such folder or no image in it, or ``count`` is below 1.
    """
    if count < 1:
        raise UserError(f"{count} images to calibrate on were asked for; expected at least 1")
    images = UnlabelledFolder(root)
    drawn = np.random.default_rng(seed).permutation(len(images))[:count].tolist()
    return DataLoader(
        _Unlabelled(images, transform),
        batch_size=min(batch_size, len(drawn)),
        sampler=drawn,
        num_workers=workers,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )


def _normalised(input_format: InputFormat) -> list[v2.Transform]:
    """From an image in RGB to numbers in the format."""
    order: list[v2.Transform] = [v2.Lambda(_reversed_channels)] if input_format.channel_order == "BGR" else []
    return [
        v2.PILToTensor(),
        *order,
        v2.ToDtype(torch.float32),
        v2.Normalize(mean=list(input_format.mean), std=list(input_format.std)),
    ]


def _reversed_channels(image: Tensor) -> Tensor:
    return image.flip(0)
