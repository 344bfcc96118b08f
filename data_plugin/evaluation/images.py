"""Images for evaluation: labelled folders, the labelled part of one, and images to calibrate on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from data_plugin.checkpoint import SupernetInfo
from data_plugin.errors import UserError
from data_plugin.input_format import InputFormat
from data_plugin.pretrain.image_folder import ImageFolder as UnlabelledFolder

Transform = Callable[[Image.Image], Tensor]
"""Makes the input of a network, (3, size, size), of an image."""


class UnreadableImage(UserError):
    """An image file that cannot be decoded; in a worker process too one sentence."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception anew, with the traceback before the message.
        super().__init__(message.strip().rpartition(f"{type(self).__name__}: ")[-1])


def pretrained_size(path: Path, info: SupernetInfo) -> int:
    """Height and width of the images of a supernet's pre-training in pixels.

    Args:
        path: the supernet's file, for the message.
        info: what its header says.

    Raises:
        UserError: if it does not say.
    """
    size = info.training.get("image_size")
    if not isinstance(size, int):
        raise UserError(f"{path} does not say at which image size it was pre-trained; give one with --image-size")
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


def labelled_folder(root: Path) -> ImageFolder:
    """Images in RGB in sub-folders named after their classes.

    Raises:
        UserError: if there is no such folder, there are no sub-folders, if one holds no image, or there is one class.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected one with a sub-folder of images for each class")
    try:
        folder = ImageFolder(str(root), loader=_read)
    except FileNotFoundError as error:
        raise UserError(f"{root} does not hold a sub-folder of images for each class: {error}") from error
    if len(folder.classes) < 2:
        raise UserError(f"{root} holds one class, {folder.classes[0]}; expected sub-folders of at least two")
    return folder


def require_same_classes(train: ImageFolder, val: ImageFolder) -> None:
    """Check that two labelled folders have the same classes.

    Raises:
        UserError: naming the first classes that one of them lacks.
    """
    for have, lack in ((train, val), (val, train)):
        alone = sorted(set(have.classes) - set(lack.classes))
        if alone:
            raise UserError(
                f"{have.root} and {lack.root} hold different classes: {', '.join(alone[:3])}"
                f"{', …' if len(alone) > 3 else ''} only in the first; expected the same sub-folders in both"
            )


def labelled_part(labels: Iterable[int], fraction: float, seed: int) -> list[int]:
    """Indices of images drawn at random, the same part of every class and at least one image of each.

    Args:
        labels: the class of every image.
        fraction: the part, above 0 and up to 1.
        seed: the same seed draws the same images.

    Raises:
        UserError: if the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"the labelled part is {fraction:.4%}; expected more than 0 % and at most 100 %")
    of_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        of_class.setdefault(label, []).append(index)
    drawn = random.Random(seed)
    return sorted(
        index
        for indices in of_class.values()
        for index in drawn.sample(indices, max(1, round(fraction * len(indices))))
    )


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
            raise _unreadable(self.images.root / self.images.names[index])
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


def _read(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Malformed bytes make Pillow's decoders raise almost anything.
    except Exception as error:
        raise _unreadable(path) from error


def _unreadable(path: Path | str) -> UnreadableImage:
    return UnreadableImage(f"the image {path} cannot be read; replace or remove it")
