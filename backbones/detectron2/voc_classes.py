"""The classes of a config's VOC data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from data_plugin.backbones.detectron2.datasets import VOC, DataSet, data_sets_of
from data_plugin.backbones.detectron2.labels import give_classes, named_in_config
from data_plugin.images.voc import CLASSES
from data_plugin.images.voc_classes import find_classes
from data_plugin.utils.errors import UserError


def find_voc_classes(cfg: CfgNode, placed: Sequence[DataSet], given: Sequence[str] | None) -> None:
    """Give a config whose VOC data sets have other classes than VOC's their names, and all heads their number.

    Args:
        cfg: the config; changed.
        placed: those of its data sets that are elsewhere than detectron2's catalogs say.
        given: the classes, in order; None takes those of ``DATASETS.CLASSES``, else those of the data.

    Raises:
        UserError: if detectron2 cannot evaluate one of the classes, or see
            :func:`~data_plugin.images.voc_classes.find_classes`.
    """
    data_sets = data_sets_of(VOC, cfg, placed)
    if not data_sets:
        return
    named = named_in_config(cfg) if given is None else given
    classes = find_classes([each.listed for each in data_sets], named)
    if named is None and classes == CLASSES:
        return
    for name in classes:
        if "/" in name:
            raise UserError(f"detectron2's evaluator writes a file of each class, so none can be called {name!r}")
    give_classes(cfg, classes)
