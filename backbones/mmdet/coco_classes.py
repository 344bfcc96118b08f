"""The classes of a config's COCO data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from mmengine.config import Config, ConfigDict

from data_plugin.backbones.mmdet.coco import EVALUATORS, annotation_file, evaluators
from data_plugin.backbones.mmdet.datasets import COCO, CocoDataset, CocoMetric
from data_plugin.backbones.mmdet.labels import give_classes, kind, named_in_config
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.images.coco_classes import find_classes


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


def has_own_classes(leaf: ConfigDict) -> bool:
    """Whether classes can be named for a data set entry: MMDetection's COCO class itself, or ours."""
    return kind(leaf) in (CocoDataset, OwnCocoDataset)


def find_coco_classes(config: Config, given: Sequence[str] | None) -> None:
    """Give COCO data sets with other classes than COCO's their names, and all heads for objects their number.

    Their evaluators then score every class by its name, too.

    Args:
        config: the config, its data sets in place; changed.
        given: the classes, in order; None takes those that the data sets' ``metainfo`` names, else those of the files.

    Raises:
        UserError: if data sets name different ones, or see :func:`~data_plugin.images.coco_classes.find_classes`.
    """
    entries = [(loader, leaf) for loader in LOADERS for leaf in leaves(config[loader].dataset) if has_own_classes(leaf)]
    if not entries:
        return
    usual = CocoDataset.METAINFO["classes"]
    named = named_in_config(entries) if given is None else given
    classes = find_classes([annotation_file(leaf) for _, leaf in entries], usual, named)
    if named is None and classes == usual:
        return
    give_classes(config, entries, OwnCocoDataset, classes)
    for loader, name in EVALUATORS.items():
        if any(each == loader for each, _ in entries):
            for entry in evaluators(config.get(name)):
                _score_classes(entry)


def _read(file: str, classes: Sequence[str]) -> COCO:
    return numbered(COCO(file), classes)


def _score_classes(evaluator: ConfigDict) -> None:
    if evaluator.type in (CocoMetric, CocoMetric.__name__):
        evaluator.update(type=OwnCocoMetric.__name__, classwise=True)
