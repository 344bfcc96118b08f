"""The classes of a config's COCO data sets, and of the heads that learn them."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from data_plugin.backbones.detectron2.datasets import COCO, DataSet, data_sets_of
from data_plugin.backbones.detectron2.labels import give_classes, named_in_config
from data_plugin.images.coco_classes import find_classes

CLASSES = tuple(each["name"] for each in COCO_CATEGORIES if each["isthing"])
"""The 80 classes of COCO."""


def find_coco_classes(cfg: CfgNode, placed: Sequence[DataSet], given: Sequence[str] | None) -> None:
    """Give a config whose COCO data sets list other categories than COCO's their names, and all heads their number.

    Args:
        cfg: the config; changed.
        placed: those of its data sets that are elsewhere than detectron2's catalogs say.
        given: the classes, in order; None takes those of ``DATASETS.CLASSES``, else those of the files.

    Raises:
        UserError: see :func:`~data_plugin.images.coco_classes.find_classes`.
    """
    files = [each.json_file for each in data_sets_of(COCO, cfg, placed) if not each.is_of_keypoints]
    if not files:
        return
    named = named_in_config(cfg) if given is None else given
    classes = find_classes(files, CLASSES, named)
    if named is not None or classes != CLASSES:
        give_classes(cfg, classes)
