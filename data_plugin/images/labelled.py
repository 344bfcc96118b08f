"""Labelled images: a folder with a sub-folder for each class, and the labelled part of one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torchvision.datasets import ImageFolder

from data_plugin.images.rgb import to_rgb
from data_plugin.utils.errors import UserError


class UnreadableImage(UserError):
    """An image file that cannot be decoded; in a worker process too one sentence."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception anew, with the traceback before the message.
        super().__init__(message.strip().rpartition(f"{type(self).__name__}: ")[-1])


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


def _read(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    # Malformed bytes make Pillow's decoders raise almost anything.
    except Exception as error:
        raise unreadable(path) from error


def unreadable(path: Path | str) -> UnreadableImage:
    """The error for an image that cannot be decoded."""
    return UnreadableImage(f"the image {path} cannot be read; replace or remove it")
