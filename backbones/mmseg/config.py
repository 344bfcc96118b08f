"""MMSegmentation's configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from data_plugin.backbones.mmseg.classes import find_classes
from data_plugin.backbones.mmseg.datasets import place, unlabelled
from data_plugin.backbones.mmseg.labels import check_labels
from data_plugin.backbones.mmseg.resnet import MMSegResNet
from data_plugin.backbones.openmmlab.config import OpenMMLabConfig
from data_plugin.backbones.openmmlab.config_file import LOADERS
from data_plugin.utils.errors import UserError

FIGURES = ("mIoU", "aAcc", "mAcc")
"""What MMSegmentation's ``IoUMetric`` gives, in percent: mean IoU, pixel accuracy, mean accuracy of the classes."""


class MMSegConfig(OpenMMLabConfig):
    """A config of MMSegmentation.

    Images are whole, as in evaluation with ``test_cfg.mode="whole"``. Classes that occur neither in the labels nor in
    the predictions do not count in the figures.

    Args:
        path: the ``.py`` file.
        options: ``KEY=VALUE`` strings as MMSegmentation's ``--cfg-options`` takes them; keys must exist.
        data_root: the folder of the data set (for Cityscapes: the one that holds ``leftImg8bit`` and ``gtFine``),
            instead of the config's. Where it holds a ``classes.txt`` the classes are those that it lists.
        classes: the classes of data in Cityscapes' layout, in order; see :func:`find_classes`.

    Raises:
        UserError: see :class:`~data_plugin.frameworks.framework_config.FrameworkConfig`.
    """

    title = "MMSegmentation"
    scope = "mmseg"
    models = MODELS
    networks = (MMSegResNet,)
    preprocessor = "SegDataPreProcessor"

    def _find_data(self, data_root: Path | None) -> None:
        for name in LOADERS:
            place(self.cfg[name].dataset, data_root)

    def _find_classes(self, classes: Sequence[str] | None) -> None:
        find_classes(self.cfg, classes)

    def _unlabelled(self, leaf: ConfigDict, pipeline: Sequence[Any]) -> ConfigDict:
        return unlabelled(leaf, pipeline)

    def _require_labels(self, loader: str) -> None:
        check_labels(self.cfg[loader].dataset, self._num_classes(), of_training=loader == "train_dataloader")

    def _require_figures(self) -> None:
        evaluator = self.cfg.val_evaluator
        entries = evaluator if isinstance(evaluator, list) else [evaluator]
        if not any(entry.type == "IoUMetric" and "mIoU" in entry.get("iou_metrics", ["mIoU"]) for entry in entries):
            raise UserError(f"val_evaluator is {evaluator}; expected type='IoUMetric' with iou_metrics=['mIoU']")

    def _figures(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return {name: float(metrics[name]) for name in FIGURES}

    def _num_classes(self) -> int | None:
        head = self.cfg.model.get("decode_head") or {}
        last = head[-1] if isinstance(head, list) else head
        return last.get("num_classes")
