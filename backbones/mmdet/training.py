"""Fine-tuning and evaluation with MMEngine's runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from data_plugin.backbones.mmdet.coco import check_coco_labels
from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.mmdet.voc import check_voc_labels
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet
from data_plugin.backbones.openmmlab.training import train_or_evaluate
from data_plugin.utils.errors import UserError

FIGURES = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75"}
"""What the COCO evaluator calls the figures, after ``bbox_`` or ``segm_``, as fractions of 1."""

IOU_THRESHOLDS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
"""AP is the mean over these, as in COCO and in detectron2's VOC evaluator."""


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
        weights: checkpoint of a whole detector (``.pth``) to start from or to evaluate.

    Returns:
        ``AP`` (mean over IoU 0.5 to 0.95), ``AP50`` and ``AP75`` in percent; where the evaluator scores masks also or
        only ``mask AP``, ``mask AP50`` and ``mask AP75``.

    Raises:
        UserError: if there is nothing to resume or evaluate, weights do not match the architecture, an annotation
            cannot be used, or the evaluator does not give these figures. ``out`` is not touched then.
    """
    names = _metric_names(config.val_evaluator)
    for loader in ("val_dataloader",) if eval_only else ("train_dataloader", "val_dataloader"):
        check_voc_labels(config, loader)
        check_coco_labels(config, loader)
    ours = (OpenMMLabResNet, DATAResLayer)
    metrics = train_or_evaluate(config, out, "mmdet", ours, resume=resume, eval_only=eval_only, weights=weights)
    # MMDetection's COCO evaluator gives no figures where nothing was detected, which is a precision of 0.
    return {name: 100 * float(metrics.get(key, 0)) for name, key in names.items()}


def _metric_names(evaluator: Any) -> Mapping[str, str]:
    for entry in evaluator if isinstance(evaluator, list) else [evaluator]:
        prefix, scored = entry.get("prefix"), entry.get("metric", "bbox")
        if entry.type == "VOCMetric":
            if list(entry.get("iou_thrs", [])) != IOU_THRESHOLDS:
                raise UserError(
                    f"val_evaluator has iou_thrs={entry.get('iou_thrs', 0.5)}; expected {IOU_THRESHOLDS}, whose mean "
                    "is AP"
                )
            return {name: f"{prefix or 'pascal_voc'}/{'mAP' if name == 'AP' else name}" for name in FIGURES}
        kinds = [kind for kind in ("bbox", "segm") if kind in ([scored] if isinstance(scored, str) else scored)]
        if entry.type == "CocoMetric" and kinds:
            return {
                ("mask " if kind == "segm" else "") + name: f"{prefix or 'coco'}/{kind}_{figure}"
                for kind in kinds
                for name, figure in FIGURES.items()
            }
    raise UserError(
        f"val_evaluator is {evaluator}; expected type='VOCMetric', or type='CocoMetric' with metric 'bbox' or 'segm'"
    )
