"""The classes of a config's VOC data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config

from data_plugin.backbones.mmdet.labels import give_classes, named_in_config
from data_plugin.backbones.mmdet.voc import OwnVOCDataset, is_voc, split_of
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.images.voc import CLASSES
from data_plugin.images.voc_classes import find_classes


def find_voc_classes(config: Config, given: Sequence[str] | None) -> None:
    """Give VOC data sets with other classes than VOC's their names, and all heads for objects their number.

    Args:
        config: the config, its data sets in place; changed.
        given: the classes, in order; None takes those that the data sets' ``metainfo`` names, else those of the data.

    Raises:
        UserError: if data sets name different ones, or see :func:`~data_plugin.images.voc_classes.find_classes`.
    """
    entries = [(loader, leaf) for loader in LOADERS for leaf in leaves(config[loader].dataset) if is_voc(leaf)]
    if not entries:
        return
    named = named_in_config(entries) if given is None else given
    classes = find_classes([split_of(leaf) for _, leaf in entries], named)
    if named is not None or classes != CLASSES:
        give_classes(config, entries, OwnVOCDataset, classes)
