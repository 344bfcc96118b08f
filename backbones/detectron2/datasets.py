"""Data sets of a config: where they are, and whether detectron2 can read them and the model can learn them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc

from data_plugin.errors import UserError
from data_plugin.voc import check_voc, present_years, voc_root

_VOC = re.compile(r"voc_(2007|2012)_(\w+)")


def use_data_root(cfg: CfgNode, data_root: Path) -> None:
    """Let the VOC data sets of a config be those below a folder, whatever ``DETECTRON2_DATASETS`` says.

    ``DATASETS.TRAIN`` loses the data sets of a year that is not there, with a warning, as long as one remains.

    Args:
        cfg: the config, which is changed.
        data_root: the folder that holds ``VOC2007``, and ``VOC2012`` where there is one.

    Raises:
        UserError: if the folder is missing or not in VOC layout, lacks a test set, or the config uses other data sets.
    """
    root = voc_root(data_root)
    data_sets = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        match = _VOC.fullmatch(name)
        if match is None:
            raise UserError(
                f"a data root can be given for VOC data sets, but the config uses {name!r}; "
                "set the environment variable DETECTRON2_DATASETS instead"
            )
        data_sets[name] = match.groups()
    years = present_years(root, ["2007", "2012"])
    missing = [name for name, (year, _) in data_sets.items() if year not in years]
    remaining = tuple(name for name in cfg.DATASETS.TRAIN if name not in missing)
    if missing and (not remaining or set(missing) & set(cfg.DATASETS.TEST)):
        raise UserError(f"{root} has no {_folder(data_sets[missing[0]][0])}, which the data set {missing[0]} needs")
    if missing:
        absent = ", ".join(_folder(data_sets[name][0]) for name in missing)
        warnings.warn(
            f"{root} has no {absent}: training uses {', '.join(remaining)} alone, without {', '.join(missing)}",
            stacklevel=2,
        )
        cfg.DATASETS.TRAIN = remaining
    for name, (year, split) in data_sets.items():
        if name not in missing:
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
            register_pascal_voc(name, str(root / _folder(year)), split, int(year))
            MetadataCatalog.get(name).evaluator_type = "pascal_voc"


def require_data_sets(names: Sequence[str]) -> None:
    """Check that data sets are there; of VOC ones every photograph and annotation.

    Raises:
        UserError: naming the first file that is missing or damaged.
    """
    for name in names:
        if name not in DatasetCatalog:
            raise UserError(f"{name!r} is not a data set that detectron2 knows; register it, or change DATASETS")
        if _VOC.fullmatch(name):
            metadata = MetadataCatalog.get(name)
            folder = Path(metadata.dirname)
            if not folder.is_dir():
                raise UserError(
                    f"{folder} of the data set {name} is missing; give a data root, or set DETECTRON2_DATASETS to the "
                    f"folder that holds {folder.name}"
                )
            check_voc(folder.parent, str(metadata.year), metadata.split)


def require_labels(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check that the model of a config has a class for every object of its data sets.

    Raises:
        UserError: naming the first image with an object of another class.
    """
    node = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    classes = cfg.MODEL[node].NUM_CLASSES
    for name in names:
        for record in DatasetCatalog.get(name):
            for label in (annotation["category_id"] for annotation in record["annotations"]):
                if not 0 <= label < classes:
                    raise UserError(
                        f"{record['file_name']} has an object of class {label}, but the config's "
                        f"MODEL.{node}.NUM_CLASSES is {classes}; {name} needs "
                        f"{len(MetadataCatalog.get(name).thing_classes)}"
                    )


def _folder(year: str) -> str:
    return f"VOC{year}"
