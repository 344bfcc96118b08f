"""Data sets of a config: where they are, and whether detectron2 can read them and the model can learn them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.data.datasets.cityscapes import load_cityscapes_instances

from data_plugin.backbones.detectron2.cityscapes import require_cityscapesscripts
from data_plugin.images.voc import check_voc, present_years, voc_root
from data_plugin.utils.errors import UserError

Record = dict[str, Any]
"""One image as detectron2's data sets, loaders and models describe it."""

_VOC = re.compile(r"voc_(2007|2012)_(\w+)")
_COCO = re.compile(r"(keypoints_)?coco_(2014|2017)_(train|val|val_100|minival|valminusminival)")
_CITYSCAPES = re.compile(r"cityscapes_fine_instance_seg_(train|val)")

CLASSES_OF = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET"}
"""Where each meta-architecture that detects objects, and nothing else, has its number of classes."""


def use_data_root(cfg: CfgNode, data_root: Path) -> None:
    """Let the VOC, COCO and Cityscapes data sets of a config be those below a folder.

    ``DETECTRON2_DATASETS`` says where they are otherwise.

    ``DATASETS.TRAIN`` loses the VOC data sets of a year that is not there, with a warning, as long as one remains. The
    categories of a COCO data set are those of its file.

    Args:
        cfg: the config, which is changed.
        data_root: the folder that holds ``VOC2007``, and ``VOC2012`` where there is one; that holds ``annotations``
            and the folders of images (or a folder ``coco`` with them); or that holds ``leftImg8bit`` and ``gtFine``
            (or a folder ``cityscapes`` with them).

    Raises:
        UserError: if the folder is missing or of another layout, lacks a data set, or the config uses other data sets.
    """
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    cityscapes = list(filter(_CITYSCAPES.fullmatch, names))
    other = [name for name in names if not _VOC.fullmatch(name) and not _is_coco(name) and name not in cityscapes]
    if other:
        raise UserError(
            f"a data root can be given for VOC, COCO and Cityscapes' instance data sets, but the config uses "
            f"{other[0]!r}; set the environment variable DETECTRON2_DATASETS instead"
        )
    if cityscapes:
        _use_cityscapes_root(cityscapes, data_root)
    if any(map(_is_coco, names)):
        _use_coco_root([name for name in names if _is_coco(name)], data_root)
    if any(map(_VOC.fullmatch, names)):
        _use_voc_root(cfg, data_root)


def require_data_sets(names: Sequence[str]) -> Mapping[str, list[Record]]:
    """Check that data sets are there with every image, and of VOC ones every annotation.

    Returns:
        The images of every data set, by its name.

    Raises:
        UserError: if there is none, or naming the first file or folder that is missing or damaged.
    """
    if not names:
        raise UserError("the config names no data set; set DATASETS.TRAIN and DATASETS.TEST")
    return {name: _records(name) for name in names}


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


def _is_coco(name: str) -> bool:
    return _COCO.fullmatch(name) is not None and name in DatasetCatalog


def _use_coco_root(names: Sequence[str], data_root: Path) -> None:
    if not data_root.is_dir():
        raise UserError(f"the data root {data_root} is not a folder; give the one that holds COCO's annotations folder")
    root = next((each for each in (data_root, data_root / "coco") if (each / "annotations").is_dir()), None)
    if root is None:
        raise UserError(
            f"the data root {data_root} is not in COCO layout; expected annotations/instances_train2017.json, "
            "train2017 and so on in it or in its coco folder"
        )
    found = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        found[name] = (root / "annotations" / Path(metadata.json_file).name, root / Path(metadata.image_root).name)
        missing = [path for path in found[name] if not path.exists()]
        if missing:
            raise UserError(f"{missing[0]} is missing, which the data set {name} needs")
    for name, (json_file, image_root) in found.items():
        # What is about categories comes from the file; keypoints are in none that detectron2 would read.
        metadata = MetadataCatalog.get(name).as_dict()
        kept = {field: value for field, value in metadata.items() if field.startswith("keypoint_")}
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        register_coco_instances(name, kept, str(json_file), str(image_root))


def _use_cityscapes_root(names: Sequence[str], data_root: Path) -> None:
    roots = (data_root, data_root / "cityscapes")
    root = next((each for each in roots if all((each / part).is_dir() for part in ("leftImg8bit", "gtFine"))), None)
    if root is None:
        raise UserError(
            f"the data root {data_root} is not in Cityscapes' layout; expected leftImg8bit and gtFine in it"
        )
    for name in names:
        split = name.rpartition("_")[2]
        images, labels = str(root / "leftImg8bit" / split), str(root / "gtFine" / split)
        kept = {**MetadataCatalog.get(name).as_dict(), "image_dir": images, "gt_dir": labels}
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        DatasetCatalog.register(name, partial(load_cityscapes_instances, images, labels))
        MetadataCatalog.get(name).set(**{field: value for field, value in kept.items() if field != "name"})


def _use_voc_root(cfg: CfgNode, data_root: Path) -> None:
    root = voc_root(data_root)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    data_sets = {name: match.groups() for name in names if (match := _VOC.fullmatch(name))}
    years = present_years(root, ["2007", "2012"])
    missing = [name for name, (year, _) in data_sets.items() if year not in years]
    remaining = tuple(name for name in cfg.DATASETS.TRAIN if name not in missing)
    if missing and (not remaining or set(missing) & set(cfg.DATASETS.TEST)):
        raise UserError(f"{root} has no {_folder(data_sets[missing[0]][0])}, which the data set {missing[0]} needs")
    if missing:
        absent = ", ".join(_folder(data_sets[name][0]) for name in missing)
        warnings.warn(
            f"TRAINING DATA IS NOT THE RECIPE'S: {root} has no {absent}, so training uses "
            f"{', '.join(remaining)} alone, without {', '.join(missing)}",
            stacklevel=3,
        )
        cfg.DATASETS.TRAIN = remaining
    for name, (year, split) in data_sets.items():
        if name not in missing:
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
            register_pascal_voc(name, str(root / _folder(year)), split, int(year))
            MetadataCatalog.get(name).evaluator_type = "pascal_voc"


def _records(name: str) -> list[Record]:
    """The images of a data set, all of which are there."""
    if name not in DatasetCatalog:
        raise UserError(f"{name!r} is not a data set that detectron2 knows; register it, or change DATASETS")
    metadata = MetadataCatalog.get(name)
    for field in ("dirname", "json_file", "image_root", "image_dir", "gt_dir"):
        path = metadata.get(field)
        if path and not Path(path).exists():
            raise UserError(
                f"{path} of the data set {name} is missing; give a data root, or set the environment variable "
                "DETECTRON2_DATASETS to the folder that holds the data sets"
            )
    if metadata.get("evaluator_type", "").startswith("cityscapes"):
        require_cityscapesscripts()
    if _VOC.fullmatch(name):
        check_voc(Path(metadata.dirname).parent, str(metadata.year), metadata.split)
    try:
        records = DatasetCatalog.get(name)
    except ImportError as error:
        raise UserError(f"the data set {name} needs a package that is not installed: {error}") from error
    except (LookupError, ValueError, TypeError, AssertionError, AttributeError, OSError) as error:
        reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        source = metadata.get("json_file", metadata.get("image_dir", "its files"))
        raise UserError(f"the data set {name} cannot be read from {source}: {reason}") from error
    missing = next((record["file_name"] for record in records if not Path(record["file_name"]).is_file()), None)
    if missing is not None:
        raise UserError(f"the image {missing} of the data set {name} is missing")
    if not records:
        raise UserError(f"the data set {name} has no images")
    return records


def _class_names(name: str) -> Sequence[str]:
    return MetadataCatalog.get(name).get("thing_classes", ())


def _origin(name: str, label: int) -> str:
    """Where a label comes from if the data set's file numbers its categories in its own way."""
    metadata = MetadataCatalog.get(name)
    own_ids = {ours: theirs for theirs, ours in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    return f" (category id {own_ids[label]} of {metadata.json_file})" if label in own_ids else ""


def _folder(year: str) -> str:
    return f"VOC{year}"
