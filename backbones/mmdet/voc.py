"""PASCAL VOC in MMDetection: the data root, and what its own data set class lacks."""

from __future__ import annotations

import os.path
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict

from data_plugin.backbones.mmdet.datasets import VOCDataset
from data_plugin.backbones.mmdet.labels import class_names, kind, require_classes
from data_plugin.backbones.openmmlab.config_file import leaves
from data_plugin.images.voc import VOCSplit, check_voc, object_names, voc_root
from data_plugin.images.voc_boxes import AnnotatedImage, annotated_images, check_boxes, of_other_size
from data_plugin.utils.errors import UserError

_PICKED_BY = "ann_file and data_prefix.sub_data_root of a loader's dataset, such as val_dataloader.dataset, pick one"


class IncludeDifficult(BaseTransform):
    """Let ``LoadAnnotations`` keep VOC's difficult objects, which detectron2 trains on and MMDetection sets aside."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Clear the ``ignore_flag`` of every object in ``results["instances"]``."""
        for instance in results["instances"]:
            instance["ignore_flag"] = 0
        return results


class OwnVOCDataset(VOCDataset):
    """Data in VOC's layout with classes of its own, which ``metainfo`` has to name.

    MMDetection's evaluator prints VOC's names for a ``VOCDataset``'s classes, whatever they are, and fails beyond the
    twentieth; its visualizer has colours for twenty.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._metainfo["dataset_type"] = None


class UnlabelledVOCDataset(VOCDataset):
    """The images of a VOC split; annotations need not exist."""

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """The image's path and name."""
        return {"img_path": os.path.join(self.sub_data_root, img_info["file_name"]), "img_id": img_info["img_id"]}


def is_voc(leaf: ConfigDict) -> bool:
    """Whether a data set entry is MMDetection's VOC class, or ours for other classes."""
    return kind(leaf) in (VOCDataset, OwnVOCDataset)


def split_of(leaf: ConfigDict) -> VOCSplit:
    """The split of a VOC data set entry."""
    return VOCSplit(_folder(leaf), _root(leaf) / leaf.ann_file, _PICKED_BY)


def place(dataset: ConfigDict, data_root: Path | None) -> None:
    """Put the data root into every data set below ``dataset``, as an absolute path in MMDetection's form.

    Args:
        dataset: a data set entry, wrapped or not; changed in place.
        data_root: the folder that the user gave; None keeps each data set's own.

    Raises:
        UserError: if the root of a VOC data set is missing or not in VOC layout.
    """
    for leaf in leaves(dataset):
        root = _root(leaf) if data_root is None else data_root
        if is_voc(leaf):
            root = voc_root(root)
        if data_root is not None or is_voc(leaf):
            leaf.data_root = f"{root.resolve()}/"


def drop_absent_years(dataset: ConfigDict) -> None:
    """Train on the VOC years that exist, as long as one does, and warn about the others.

    Args:
        dataset: a training data set entry, wrapped or not; changed in place.
    """
    if "dataset" in dataset:
        drop_absent_years(dataset.dataset)
    if "datasets" not in dataset:
        return
    absent = [leaf for leaf in dataset.datasets if is_voc(leaf) and not _folder(leaf).is_dir()]
    kept = [leaf for leaf in dataset.datasets if leaf not in absent]
    if not kept:
        return
    for leaf in absent:
        warnings.warn(
            f"TRAINING DATA IS NOT THE RECIPE'S: {_folder(leaf)} is missing, so training uses "
            f"{', '.join(_folder(each).name for each in kept)} alone",
            stacklevel=2,
        )
    dataset.datasets = kept


def check_lists(dataset: ConfigDict) -> None:
    """Check that every VOC split below ``dataset`` lists images.

    Raises:
        UserError: naming the list that is missing, empty or no text.
    """
    for leaf in filter(is_voc, leaves(dataset)):
        _ = split_of(leaf).names


def check_voc_labels(config: Config, loader: str) -> None:
    """Check every image and annotation of a loader's VOC splits, and the model's class counts.

    Args:
        config: the config.
        loader: ``train_dataloader`` or ``val_dataloader``.

    Raises:
        UserError: naming the first file that is missing or unreadable, the first object that covers nothing of its
            image, the first head of the model with another number of classes than the data set, or the list of images
            without any object of the classes.
    """
    entries = list(filter(is_voc, leaves(config[loader].dataset)))
    labelled = False
    for leaf in entries:
        objects, classes = check_voc(split_of(leaf)), class_names(leaf)
        _check_images(annotated_images(split_of(leaf)))
        require_classes(config.model, len(classes), leaf.ann_file)
        labelled |= any(name in objects for name in classes)
        _count_empty(leaf, classes)
    if entries and not labelled:
        raise UserError(
            f"no image of {' and '.join(str(split_of(leaf).listing) for leaf in entries)} has an object of the classes "
            f"{', '.join(classes)}; expected labelled images"
        )


def _check_images(images: Sequence[AnnotatedImage]) -> None:
    check_boxes(images, last=0)
    other = [image for image in of_other_size(images) if image.said_size is not None]
    if other:
        (width, height), (said_width, said_height) = other[0].size, other[0].said_size or (0, 0)
        warnings.warn(
            f"{len(other)} annotations give another size than their image has, the first is {other[0].annotation} "
            f"({said_width}x{said_height}, where the image has {width}x{height}): MMDetection takes boxes as pixels of "
            "the image, and the size for its filter_cfg alone",
            stacklevel=4,
        )


def _count_empty(leaf: ConfigDict, classes: Sequence[str]) -> None:
    """Say how many images training leaves out, which MMDetection does not."""
    split = split_of(leaf)
    names = split.names
    empty = [name for name in names if not {*classes} & {*object_names(split.annotation(name))}]
    if empty and not leaf.get("test_mode") and (leaf.get("filter_cfg") or {}).get("filter_empty_gt"):
        warnings.warn(
            f"{len(empty)} of the {len(names)} images of {split.listing} have no object of the classes, the first is "
            f"{empty[0]}: training leaves them out, as filter_cfg says",
            stacklevel=4,
        )


def _folder(leaf: ConfigDict) -> Path:
    return _root(leaf) / leaf.data_prefix.sub_data_root


def _root(leaf: ConfigDict) -> Path:
    return Path(leaf.get("data_root") or "")
