"""The classes of a config's VOC data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config

from data_plugin.backbones.mmdet.labels import class_names, set_classes
from data_plugin.backbones.mmdet.voc import OwnVOCDataset, is_voc, split_of
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.images.voc import CLASSES
from data_plugin.images.voc_classes import find_classes
from data_plugin.utils.errors import UserError


def find_voc_classes(config: Config, given: Sequence[str] | None) -> None:
    """Give VOC data sets with other classes than VOC's their names, and all heads for objects their number.

    Args:
        config: the config, its data sets in place; changed.
        given: the classes, in order; None takes those that the data sets' ``metainfo`` names, else those of the data.

    Raises:
        UserError: if classes are given and no data set is VOC's, data sets name different ones, or see
            :func:`~data_plugin.images.voc_classes.find_classes`.
    """
    entries = [(loader, leaf) for loader in LOADERS for leaf in leaves(config[loader].dataset) if is_voc(leaf)]
    if not entries:
        if given is not None:
            raise UserError(
                f"the classes {', '.join(given)} are given, but they can be named for data sets in VOC's layout alone, "
                "and the config has none"
            )
        return
    own: dict[tuple[str, ...], str] = {}
    for loader, leaf in entries:
        if (leaf.get("metainfo") or {}).get("classes"):
            own.setdefault(class_names(leaf), loader)
    if given is None and len(own) > 1:
        (first, one), (second, other), *_ = own.items()
        raise UserError(
            f"the config names the classes {', '.join(first)} in its {one} and {', '.join(second)} in its {other}; "
            "expected the same in all of train_dataloader, val_dataloader and test_dataloader"
        )
    named = next(iter(own), None) if given is None else given
    classes = find_classes([split_of(leaf) for _, leaf in entries], named)
    if named is None and classes == CLASSES:
        return
    for _, leaf in entries:
        leaf.type = OwnVOCDataset.__name__
        leaf.metainfo = {**(leaf.get("metainfo") or {}), "classes": classes}
    set_classes(config.model, len(classes))
