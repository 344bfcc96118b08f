"""Labels of a config's data sets: whether they can be read, and the model can learn them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation.pascal_voc_evaluation import parse_rec

from data_plugin.backbones.detectron2.cityscapes import require_cityscapesscripts
from data_plugin.backbones.detectron2.datasets import COCO, VOC, Record, catalogued, read_records, require_images
from data_plugin.backbones.detectron2.records import check_records
from data_plugin.images.coco_boxes import check_coco
from data_plugin.images.voc import check_voc
from data_plugin.images.voc_boxes import AnnotatedImage, annotated_images, check_boxes, of_other_size
from data_plugin.utils.errors import UserError

CLASSES_OF = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET"}
"""Where each meta-architecture that detects objects, and nothing else, has its number of classes."""


def named_in_config(cfg: CfgNode) -> tuple[str, ...] | None:
    """The classes that ``DATASETS.CLASSES`` names; None where it names none."""
    return tuple(cfg.DATASETS.CLASSES) or None


def give_classes(cfg: CfgNode, classes: Sequence[str]) -> None:
    """Name the classes of a config's data sets, and give all heads for objects their number.

    Args:
        cfg: the config; changed.
        classes: the classes, in the order of their labels.
    """
    cfg.DATASETS.CLASSES = tuple(classes)
    for node in CLASSES_OF.values():
        cfg.MODEL[node].NUM_CLASSES = len(classes)


def require_data_sets(names: Sequence[str]) -> Mapping[str, list[Record]]:
    """Check that data sets are there with every image, and that sizes and boxes in their labels fit the images.

    Returns:
        The images of every data set, by its name.

    Raises:
        UserError: if there is none, or naming the first file or folder that is missing or damaged.
    """
    if not names:
        raise UserError("the config names no data set; set DATASETS.TRAIN and DATASETS.TEST")
    return {name: _labelled(name) for name in names}


def require_evaluable(names: Sequence[str]) -> None:
    """Check that detectron2's evaluator, which reads VOC's annotations once more, can.

    Raises:
        UserError: naming the first annotation of a VOC data set that it cannot read.
    """
    for listed in [data_set.listed for data_set in map(catalogued, names) if isinstance(data_set, VOC)]:
        for annotation in map(listed.annotation, listed.names):
            try:
                parse_rec.__wrapped__(str(annotation))  # what it is wrapped in remembers the file as it was
            except (AttributeError, TypeError, ValueError) as error:
                raise UserError(
                    f"detectron2's evaluator cannot read {annotation} ({error}); expected pose, truncated, difficult "
                    "and bndbox in every object, with whole numbers of pixels"
                ) from error


def require_labels(cfg: CfgNode, data_sets: Mapping[str, Sequence[Record]]) -> None:
    """Check that there are objects, and that the model of a config has a class for every one.

    Args:
        cfg: the config.
        data_sets: what :func:`require_data_sets` returned.

    Raises:
        UserError: naming the first image with an object of another class, or the first data set without an object.
    """
    node = CLASSES_OF[cfg.MODEL.META_ARCHITECTURE]
    classes = cfg.MODEL[node].NUM_CLASSES
    for name, records in data_sets.items():
        objects = [(record, annotation) for record in records for annotation in record.get("annotations", ())]
        if not objects:
            raise UserError(f"the data set {name} has no object in {len(records)} images; expected labelled images")
        for record, annotation in objects:
            label = annotation["category_id"]
            if not 0 <= label < classes:
                raise UserError(
                    f"{record['file_name']} has an object of class {label}{_origin(name, label)}, but the config's "
                    f"MODEL.{node}.NUM_CLASSES is {classes}; {name} needs {len(_class_names(name))}"
                )


def require_same_classes(names: Sequence[str]) -> None:
    """Check that data sets, which have been read, number their classes alike.

    Raises:
        UserError: naming two that do not.
    """
    for name in names:
        if _class_names(name) != _class_names(names[0]):
            raise UserError(
                f"the data sets {names[0]} and {name} have other classes ({', '.join(_class_names(names[0]))}, and "
                f"{', '.join(_class_names(name))}); give both files the same categories"
            )


def _check_images(images: Sequence[AnnotatedImage]) -> None:
    check_boxes(images, last=1)
    other = of_other_size(images)
    if other:
        (width, height), said = other[0].size, other[0].said_size
        raise UserError(
            f"{other[0].annotation} gives {'no size' if said is None else f'the size {said[0]}x{said[1]}'} where its "
            f"image has {width}x{height} pixels, the first of {len(other)} such annotations; detectron2 reads no image "
            "of another size: correct <size>, and the boxes if they are in pixels of that size"
        )


def _class_names(name: str) -> Sequence[str]:
    return MetadataCatalog.get(name).get("thing_classes", ())


def _origin(name: str, label: int) -> str:
    """Where a label comes from if the data set's file numbers its categories in its own way."""
    metadata = MetadataCatalog.get(name)
    own_ids = {ours: theirs for theirs, ours in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    return f" (category id {own_ids[label]} of {metadata.json_file})" if label in own_ids else ""


def _labelled(name: str) -> list[Record]:
    """The images of a data set, all of which are there, with their labels."""
    data_set, metadata = catalogued(name), MetadataCatalog.get(name)
    if isinstance(data_set, VOC) and data_set.folder.is_dir():
        check_voc(data_set.listed)
        _check_images(annotated_images(data_set.listed))
    if isinstance(data_set, COCO) and data_set.json_file.is_file():
        check_coco(data_set.json_file, data_set.folder)
    if metadata.get("evaluator_type", "").startswith("cityscapes"):
        require_cityscapesscripts()
    records = read_records(name)
    require_images([Path(record["file_name"]) for record in records], name)
    if data_set is None:
        check_records(name, records)
    return records
