"""The classes of a config's COCO data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

from data_plugin.backbones.mmdet.coco import EVALUATORS, annotation_file, evaluators
from data_plugin.backbones.mmdet.datasets import CocoDataset, CocoMetric
from data_plugin.backbones.mmdet.labels import give_classes, named_in_config
from data_plugin.backbones.mmdet.own_coco import OwnCocoDataset, OwnCocoMetric, is_plain_coco
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.images.coco_classes import find_classes


def find_coco_classes(config: Config, given: Sequence[str] | None) -> None:
    """Give COCO data sets with other classes than COCO's their names, and all heads for objects their number.

    Their evaluators then score every class by its name, too.

    Args:
        config: the config, its data sets in place; changed.
        given: the classes, in order; None takes those that the data sets' ``metainfo`` names, else those of the files.

    Raises:
        UserError: if data sets name different ones, or see :func:`~data_plugin.images.coco_classes.find_classes`.
    """
    entries = [(loader, leaf) for loader in LOADERS for leaf in leaves(config[loader].dataset) if is_plain_coco(leaf)]
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


def _score_classes(evaluator: ConfigDict) -> None:
    if evaluator.type in (CocoMetric, CocoMetric.__name__):
        evaluator.update(type=OwnCocoMetric.__name__, classwise=True)
