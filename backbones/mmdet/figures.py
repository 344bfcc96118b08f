"""AP, AP50 and AP75 from what MMDetection's evaluators say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_plugin.utils.errors import UserError

FIGURES = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75"}
"""What the COCO evaluator calls the figures, after ``bbox_`` or ``segm_``, as fractions of 1."""

IOU_THRESHOLDS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
"""AP is the mean over these, as in COCO and in detectron2's VOC evaluator."""


def metric_names(evaluator: Any) -> Mapping[str, str]:
    """What an evaluator calls ``AP``, ``AP50`` and ``AP75``, and where it scores masks also ``mask AP`` and so on.

    Args:
        evaluator: a config's ``val_evaluator``.

    Raises:
        UserError: if it does not give these figures.
    """
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
        if entry.type in ("CocoMetric", "OwnCocoMetric") and kinds:
            return {
                ("mask " if kind == "segm" else "") + name: f"{prefix or 'coco'}/{kind}_{figure}"
                for kind in kinds
                for name, figure in FIGURES.items()
            }
    raise UserError(
        f"val_evaluator is {evaluator}; expected type='VOCMetric', or type='CocoMetric' with metric 'bbox' or 'segm'"
    )
