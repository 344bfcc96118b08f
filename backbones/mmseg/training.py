"""Fine-tuning and evaluation with MMEngine's runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from data_plugin.backbones.mmseg.datasets import check_labels
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet
from data_plugin.backbones.openmmlab.training import train_or_evaluate
from data_plugin.utils.errors import UserError

METRICS = ("mIoU", "aAcc", "mAcc")
"""The figures of MMSegmentation's ``IoUMetric``, in percent: mean IoU, pixel accuracy, mean accuracy of the classes."""


def finetune(
    config: Config, out: Path, *, resume: bool = False, eval_only: bool = False, weights: Path | None = None
) -> Mapping[str, float]:
    """Train with MMEngine's runner and evaluate with the config's evaluator on its validation set.

    Runs on the CPU where there is no CUDA device, and on all processes of a ``torchrun``.

    Args:
        config: a config that names an architecture; it stays as it is.
        out: folder of checkpoints and logs.
        resume: go on from the last checkpoint in ``out``.
        eval_only: evaluate only, ``weights`` or else the last checkpoint in ``out``.
        weights: checkpoint of a whole segmenter (``.pth``) to start from or to evaluate.

    Returns:
        The figures of :data:`METRICS`; classes that occur neither in the labels nor in the predictions do not count.

    Raises:
        UserError: if there is nothing to resume or evaluate, weights do not match the architecture, a label file
            cannot be used, or the evaluator does not give the figures. ``out`` is not touched then.
    """
    _require_iou(config.val_evaluator)
    for loader in (config.val_dataloader,) if eval_only else (config.train_dataloader, config.val_dataloader):
        check_labels(loader.dataset, _num_classes(config))
    metrics = train_or_evaluate(
        config, out, "mmseg", (OpenMMLabResNet,), resume=resume, eval_only=eval_only, weights=weights
    )
    return {name: float(metrics[name]) for name in METRICS}


def _require_iou(evaluator: Any) -> None:
    entries = evaluator if isinstance(evaluator, list) else [evaluator]
    if not any(entry.type == "IoUMetric" and "mIoU" in entry.get("iou_metrics", ["mIoU"]) for entry in entries):
        raise UserError(f"val_evaluator is {evaluator}; expected type='IoUMetric' with iou_metrics=['mIoU']")


def _num_classes(config: Config) -> int | None:
    head = config.model.get("decode_head") or {}
    last = head[-1] if isinstance(head, list) else head
    return last.get("num_classes")
