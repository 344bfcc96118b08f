"""Label files of MMSegmentation's data sets: whether they are the model's classes, in the size of their images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image

from data_plugin.backbones.mmseg.datasets import BaseSegDataset, OwnCityscapesDataset, is_cityscapes
from data_plugin.backbones.openmmlab.config_file import leaves
from data_plugin.images.class_list import CLASS_LIST, UNLABELLED
from data_plugin.images.class_names import some
from data_plugin.images.image_size import upright_size
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class LabelFile:
    """A label file that was read, with its image's header.

    Args:
        path: the file.
        labels: the labels that occur.
        size: width and height in pixels.
        image_size: those of its image.
    """

    path: Path
    labels: set[int]
    size: tuple[int, int]
    image_size: tuple[int, int]


def check_labels(dataset: ConfigDict, num_classes: int | None, of_training: bool = False) -> None:
    """Check every label file of the data sets below ``dataset``: that it is there, of its image's size and classes.

    All pixels of all files count, by the files' histograms and several files at once.

    Args:
        dataset: a data set entry, wrapped or not.
        num_classes: classes of the model's decode head; None leaves them unchecked.
        of_training: warn where some of Cityscapes' own classes occur nowhere, since the labels may be other ones.

    Raises:
        UserError: if there is no image, the model has another number of classes than the data set, or naming the first
            label file that is missing, unreadable, holds another label or is of another size than its image.
    """
    for leaf in leaves(dataset):
        with DefaultScope.overwrite_default_scope("mmseg"):
            images = DATASETS.build({**leaf, "pipeline": []})
        if not isinstance(images, BaseSegDataset):
            continue
        if not len(images):
            raise UserError(f"{leaf.data_root}{leaf.data_prefix.img_path} has no image that this config would read")
        classes = images.metainfo["classes"]
        if num_classes not in (None, len(classes)):
            raise UserError(
                f"the decode head has num_classes={num_classes}, but {_name(leaf)} has {len(classes)} classes"
            )
        entries = [images.get_data_info(index) for index in range(len(images))]
        with ThreadPoolExecutor() as pool:
            files = list(pool.map(lambda each: _read(each["seg_map_path"], each["img_path"]), entries))
        _check_known(leaf, images, files)
        _check_sizes(files)
        if of_training and is_cityscapes(leaf) and not isinstance(images, OwnCityscapesDataset):
            _say_absent(leaf, classes, files)


def _read(path: str, image: str) -> LabelFile:
    labels, size = _labels(path)
    return LabelFile(Path(path), labels, size, upright_size(Path(image)))


def _labels(path: str) -> tuple[set[int], tuple[int, int]]:
    """The labels that occur in a file, and its size."""
    try:
        with Image.open(path) as image:
            if image.mode in ("L", "P"):
                return {label for label, count in enumerate(image.histogram()) if count}, image.size
            pixels, size = np.asarray(image), image.size
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as labels ({error}); put the label file there") from error
    if pixels.ndim != 2:
        raise UserError(f"{path} has {pixels.shape[-1]} channels; expected one, the class of every pixel")
    return set(np.unique(pixels).tolist()), size


def _check_known(leaf: ConfigDict, images: BaseSegDataset, files: Sequence[LabelFile]) -> None:
    known = _known_labels(images)
    for file in files:
        beyond = sorted(file.labels - known - {UNLABELLED})
        if beyond:
            own = isinstance(images, OwnCityscapesDataset)
            labels = some(map(str, sorted(known))) if own else f"{min(known)} to {max(known)}"
            raise UserError(
                f"{file.path} has the label {beyond[0]}; {CLASS_LIST if own else _name(leaf)} has {labels}, and "
                f"{UNLABELLED} for what is not labelled"
            )


def _known_labels(images: BaseSegDataset) -> set[int]:
    if isinstance(images, OwnCityscapesDataset):
        return images.known_ids
    if images.label_map:
        return set(images.label_map)
    return set(range(len(images.metainfo["classes"]) + bool(images.reduce_zero_label)))


def _check_sizes(files: Sequence[LabelFile]) -> None:
    other = [file for file in files if file.size != file.image_size]
    if other:
        (width, height), (image_width, image_height) = other[0].size, other[0].image_size
        raise UserError(
            f"{other[0].path} has {width}x{height} pixels where its image has {image_width}x{image_height}, the first "
            f"of {len(other)} such label files; expected a label for every pixel of the image as it is shown"
        )


def _say_absent(leaf: ConfigDict, classes: Sequence[str], files: Sequence[LabelFile]) -> None:
    found = {label for file in files for label in file.labels}
    occurring = [name for label, name in enumerate(classes) if label in found]
    if len(occurring) < len(classes):
        warnings.warn(
            f"of the {len(classes)} classes of {_name(leaf)} the labels in {leaf.data_root}"
            f"{leaf.data_prefix.seg_map_path} have {some(occurring)} alone; if they stand for others, list those in "
            f"{leaf.data_root}{CLASS_LIST}",
            stacklevel=3,
        )


def _name(leaf: ConfigDict) -> str:
    return leaf.type if isinstance(leaf.type, str) else leaf.type.__name__
