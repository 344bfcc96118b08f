"""MMDetection's configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from data_plugin.backbones.mmdet.coco import check_coco_labels, place_coco
from data_plugin.backbones.mmdet.coco_classes import find_coco_classes
from data_plugin.backbones.mmdet.figures import metric_names
from data_plugin.backbones.mmdet.own_coco import UnlabelledCocoDataset, is_plain_coco
from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.mmdet.voc import (
    UnlabelledVOCDataset,
    check_lists,
    check_voc_labels,
    drop_absent_years,
    is_voc,
    place,
    split_of,
)
from data_plugin.backbones.mmdet.voc_classes import find_voc_classes
from data_plugin.backbones.openmmlab.config import OpenMMLabConfig
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet
from data_plugin.images.voc import missing_lists
from data_plugin.utils.errors import UserError


class MMDetConfig(OpenMMLabConfig):
    """A config of MMDetection; where VOC 2012 is missing it trains on VOC 2007 alone, and a warning says so.

    Args:
        path: the ``.py`` file.
        options: ``KEY=VALUE`` strings as MMDetection's ``--cfg-options`` takes them; keys must exist, and those of the
            data sets still count VOC 2012 even where it is missing.
        data_root: the folder that holds the data sets (for VOC: ``VOC2007`` or ``VOCdevkit``; for COCO: what the
            config's own ``data_root`` names, with ``annotations`` and ``train2017``), instead of the config's.
        classes: the classes of VOC and COCO data sets, in order; see :class:`FrameworkConfig`.

    Raises:
        UserError: see :class:`~data_plugin.frameworks.framework_config.FrameworkConfig`.
    """

    title = "MMDetection"
    scope = "mmdet"
    models = MODELS
    networks = (OpenMMLabResNet, DATAResLayer)
    preprocessor = "DetDataPreprocessor"

    @property
    def lacking(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.lacking`: lists of VOC's splits to evaluate on."""
        return missing_lists([split_of(leaf) for leaf in filter(is_voc, leaves(self.cfg.val_dataloader.dataset))])

    def _find_data(self, data_root: Path | None) -> None:
        place_coco(self.cfg, data_root)
        for name in LOADERS:
            place(self.cfg[name].dataset, data_root)
        drop_absent_years(self.cfg.train_dataloader.dataset)
        check_lists(self.cfg.train_dataloader.dataset)

    def _find_classes(self, classes: Sequence[str] | None) -> None:
        data_sets = [leaf for loader in LOADERS for leaf in leaves(self.cfg[loader].dataset)]
        if classes is not None and not any(is_voc(leaf) or is_plain_coco(leaf) for leaf in data_sets):
            raise UserError(
                f"the classes {', '.join(classes)} are given, but they can be named for VOCDataset and CocoDataset "
                f"alone, and the config has {' and '.join(sorted({str(leaf.type) for leaf in data_sets}))}"
            )
        find_voc_classes(self.cfg, classes)
        find_coco_classes(self.cfg, classes)

    def _unlabelled(self, leaf: ConfigDict, pipeline: Sequence[Any]) -> ConfigDict:
        changed = ConfigDict({**leaf, "pipeline": pipeline, "test_mode": True, "filter_cfg": None})
        if is_voc(leaf):
            changed.type = UnlabelledVOCDataset
        if is_plain_coco(leaf):
            changed.type = UnlabelledCocoDataset
        return changed

    def _require_labels(self, loader: str) -> None:
        check_voc_labels(self.cfg, loader)
        check_coco_labels(self.cfg, loader)

    def _require_figures(self) -> None:
        metric_names(self.cfg.val_evaluator)

    def _figures(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        # MMDetection's COCO evaluator gives no figures where nothing was detected, which is a precision of 0.
        names = metric_names(self.cfg.val_evaluator)
        return {name: 100 * float(metrics.get(key, 0)) for name, key in names.items()}
