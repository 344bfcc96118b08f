"""Classes of a config's own for the VOC and COCO data sets in detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_voc_instances

from data_plugin.backbones.detectron2.datasets import COCO, OWN_FILE, VOC, Record, data_sets_of
from data_plugin.images.coco_classes import categories
from data_plugin.images.voc import CLASSES, object_names
from data_plugin.utils.errors import UserError


def register_classes(cfg: CfgNode) -> None:
    """Let detectron2's catalogs have the VOC and COCO data sets of a config with the classes of ``DATASETS.CLASSES``.

    Without any, those that had classes by this function get VOC's twenty or those of their file back, and no others
    are touched.

    Args:
        cfg: the config.
    """
    classes = tuple(cfg.DATASETS.CLASSES)
    for voc in data_sets_of(VOC, cfg):
        if classes or _is_loaded_by(_load_voc, voc.name):
            _set_metadata(voc.name, thing_classes=list(classes or CLASSES))
            DatasetCatalog[voc.name] = partial(_load_voc, voc, classes or CLASSES)
    for coco in data_sets_of(COCO, cfg):
        if classes and not coco.is_of_keypoints:
            _number_by(coco, classes)
        elif _is_loaded_by(_load_coco, coco.name):
            coco.register()


def _number_by(coco: COCO, classes: tuple[str, ...]) -> None:
    # Without json_file detectron2's evaluator asks the catalogs for the labels, and so scores these classes alone.
    for field in ("json_file", "thing_colors", "thing_dataset_id_to_contiguous_id"):
        vars(MetadataCatalog.get(coco.name)).pop(field, None)
    places = {"image_root": str(coco.folder), OWN_FILE: str(coco.json_file)}
    _set_metadata(coco.name, thing_classes=list(classes), evaluator_type="coco", **places)
    DatasetCatalog[coco.name] = partial(_load_coco, coco, classes)


def _set_metadata(name: str, **values: object) -> None:
    # detectron2 refuses other values than the first, and its demo asks for the metadata before there is a model.
    vars(MetadataCatalog.get(name)).update(values)


def _is_loaded_by(function: Callable[..., list[Record]], name: str) -> bool:
    return getattr(DatasetCatalog[name], "func", None) is function


def _load_voc(data_set: VOC, classes: tuple[str, ...]) -> list[Record]:
    """The images with their objects of some classes; detectron2's own function fails at an object of any other."""
    split = data_set.listed
    found = {name for image in split.names for name in object_names(split.annotation(image))}
    others = sorted(found.difference(classes))
    records = load_voc_instances(str(data_set.folder), data_set.split, [*classes, *others])
    for record in records:
        record["annotations"] = [each for each in record["annotations"] if each["category_id"] < len(classes)]
    return records


def _load_coco(data_set: COCO, classes: tuple[str, ...]) -> list[Record]:
    """The images with their objects of some classes; detectron2's own function numbers all that the file lists."""
    listed = categories(data_set.json_file)
    labels = {number: classes.index(name) for number, name in listed.items() if name in classes}
    records = load_coco_json(str(data_set.json_file), str(data_set.folder))
    for record in records:
        unlisted = [each["category_id"] for each in record["annotations"] if each["category_id"] not in listed]
        if unlisted:
            raise UserError(
                f"{data_set.json_file} has annotations of category {unlisted[0]}, but its categories do not list that "
                "id"
            )
        record["annotations"] = [
            {**each, "category_id": labels[each["category_id"]]}
            for each in record["annotations"]
            if each["category_id"] in labels
        ]
    return records
