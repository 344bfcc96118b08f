"""COCO in MMDetection: what its own data set and metric lack."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mmengine.config import ConfigDict

from data_plugin.backbones.mmdet.datasets import COCO, CocoDataset, CocoMetric
from data_plugin.backbones.mmdet.labels import kind
from data_plugin.images.coco import listed_images


class OwnCocoDataset(CocoDataset):
    """Data in COCO's format with classes of its own, which ``metainfo`` has to name, in the order of their labels.

    MMDetection numbers classes in the order in which a file lists them, whatever the order of their names.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images, with the objects of the classes."""
        self.COCOAPI = partial(_read, classes=self.metainfo["classes"])
        return super().load_data_list()


class OwnCocoMetric(CocoMetric):
    """COCO's evaluation for :class:`OwnCocoDataset`; what it writes to files numbers the classes by their labels."""

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """The figures of all classes and, with ``classwise``, of each by its name."""
        if self._coco_api is not None:
            numbered(self._coco_api, self.dataset_meta["classes"])
        return super().compute_metrics(results)


class UnlabelledCocoDataset(CocoDataset):
    """The images that a file in COCO's format lists; its annotations are not read."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images' paths and names."""
        return [
            {"img_path": os.path.join(self.data_prefix["img"], name), "img_id": name}
            for name in listed_images(Path(self.ann_file))
        ]


def numbered(coco: COCO, classes: Sequence[str]) -> COCO:
    """COCO's annotations with the categories of some names alone, whose ids become the classes' labels.

    Args:
        coco: the annotations, read; changed in place.
        classes: the names, in the order of their labels.
    """
    labels = {name: label for label, name in enumerate(classes)}
    label_of = {each["id"]: labels[each["name"]] for each in coco.dataset["categories"] if each["name"] in labels}
    coco.dataset["categories"] = [{"id": label, "name": name} for name, label in labels.items()]
    coco.dataset["annotations"] = [
        {**each, "category_id": label_of[each["category_id"]]}
        for each in coco.dataset.get("annotations", ())
        if each.get("category_id") in label_of
    ]
    coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs  # MMDetection's names for them
    return coco


def is_plain_coco(leaf: ConfigDict) -> bool:
    """Whether a data set entry is MMDetection's COCO class itself, or ours for other classes, and none of its kinds."""
    return kind(leaf) in (CocoDataset, OwnCocoDataset)


def _read(file: str, classes: Sequence[str]) -> COCO:
    return numbered(COCO(file), classes)
