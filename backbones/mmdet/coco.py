"""Data sets in COCO's format in MMDetection: the data root, and labels that the model has no class for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from data_plugin.backbones.mmdet.datasets import CocoDataset
from data_plugin.backbones.mmdet.labels import class_names, kind, require_classes
from data_plugin.backbones.mmdet.own_coco import is_plain_coco
from data_plugin.backbones.openmmlab.config_file import leaves
from data_plugin.images.coco import Lists, read_coco
from data_plugin.images.coco_boxes import check_coco
from data_plugin.images.coco_classes import named_by_id
from data_plugin.utils.errors import UserError

EVALUATORS = {"val_dataloader": "val_evaluator", "test_dataloader": "test_evaluator"}
"""Which evaluator reads the annotations of which loader's data set."""


def is_coco(leaf: ConfigDict) -> bool:
    """Whether a data set entry is MMDetection's COCO class or one of its kinds, such as LVIS and Cityscapes."""
    return issubclass(kind(leaf) or object, CocoDataset)


def place_coco(config: Config, data_root: Path | None) -> None:
    """Put the data root, as an absolute path, into COCO data sets and the evaluators that read their annotations.

    Args:
        config: the config; changed in place.
        data_root: the folder that the user gave; None keeps each data set's own.

    Raises:
        UserError: if the root, or annotations or images of the training or validation set in it, are missing.
    """
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for leaf in filter(is_coco, leaves(config[loader].dataset)):
            before = leaf.get("data_root") or ""
            root = Path(before) if data_root is None else data_root
            if loader != "test_dataloader":  # COCO publishes no annotations of its test set
                _check_layout(root, leaf)
            leaf.data_root = f"{root.resolve()}/"
            for entry in evaluators(config.get(EVALUATORS.get(loader, ""))):
                for key, value in entry.items():
                    if before and isinstance(value, str) and value.startswith(before):
                        entry[key] = leaf.data_root + value.removeprefix(before)


def check_coco_labels(config: Config, loader: str) -> None:
    """Check the labels of a loader's COCO data sets against the file's categories and the model's classes.

    Args:
        config: the config.
        loader: ``train_dataloader`` or ``val_dataloader``.

    Raises:
        UserError: if an image or a box is not as its file says, see :func:`check_coco`, an annotation's category is not
            listed in its file, a class of the data set is none of the categories, the model's heads have another number
            of classes, or no object is left to learn.
    """
    for leaf in filter(is_coco, leaves(config[loader].dataset)):
        path = annotation_file(leaf)
        contents = check_coco(path, _images(leaf)) if is_plain_coco(leaf) else read_coco(path)
        categories = named_by_id(path, contents["categories"])
        used = {each["category_id"] for each in contents["annotations"] if "category_id" in each}
        for unknown in sorted(used - set(categories)):
            raise UserError(f"{path} has annotations of category {unknown}, but its categories do not list that id")
        classes = class_names(leaf)
        absent = [name for name in classes if name not in categories.values()]
        if absent:  # MMDetection would leave them out and give the others their labels
            raise UserError(
                f"{path} lists {_some(categories.values())} and not the data set's {_some(absent)}; write a config "
                "whose data sets have metainfo=dict(classes=...) with the names that are listed"
            )
        left_out = [categories[each] for each in sorted(used) if categories[each] not in classes]
        if left_out:
            warnings.warn(
                f"{path}: objects of {_some(left_out)} are no classes of the data set: left out",
                stacklevel=3,
            )
        require_classes(config.model, len(classes), path)
        if is_plain_coco(leaf):
            _require_object(path, contents, [each for each, name in categories.items() if name in classes])


def annotation_file(leaf: ConfigDict) -> Path:
    """Where the annotations of a COCO data set entry are."""
    return Path(leaf.get("data_root") or "") / (leaf.get("ann_file") or "")


def evaluators(evaluator: Any) -> list[ConfigDict]:
    """The entries of a config's ``val_evaluator`` or ``test_evaluator``, of which it has one, several or none."""
    if evaluator is None:
        return []
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def _images(leaf: ConfigDict) -> Path:
    return Path(leaf.get("data_root") or "") / leaf.data_prefix.img


def _require_object(path: Path, contents: Lists, classes: Sequence[int]) -> None:
    images = {each["id"] for each in contents["images"]}
    # MMDetection sees none in what has no area and in what is of no image that the file lists.
    if not any(
        each["area"] > 0 and each["image_id"] in images and each["category_id"] in classes
        for each in contents["annotations"]
    ):
        raise UserError(f"{path} has no object of the data set's classes with an area in its images; expected some")


def _check_layout(root: Path, leaf: ConfigDict) -> None:
    wanted = [leaf.ann_file, *(part for part in (leaf.get("data_prefix") or {}).values() if isinstance(part, str))]
    layout = f"expected {' and '.join(wanted)} in it, as in COCO's layout"
    where = root.absolute()
    if not root.is_dir():
        raise UserError(f"the data root {where} is not a folder; give --data-root the data set's folder, {layout}")
    for part in wanted:
        if not (root / part).exists():
            raise UserError(f"the data root {where} has no {part}; {layout}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(str, listed[:5])) + (", …" if len(listed) > 5 else "")
