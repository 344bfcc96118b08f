"""Fine-tuning and evaluation with MMEngine's runner."""

from __future__ import annotations

import copy
import os
import pickle
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, find_latest_checkpoint

from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.mmdet.voc import check_annotations
from data_plugin.backbones.openmmlab_resnet import OpenMMLabResNet, pretrained_file
from data_plugin.errors import UserError
from data_plugin.files import read_tensors, require_matching

METRICS = {
    "VOCMetric": {"AP": "pascal_voc/mAP", "AP50": "pascal_voc/AP50", "AP75": "pascal_voc/AP75"},
    "CocoMetric": {"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50", "AP75": "coco/bbox_mAP_75"},
}
"""Where each evaluator puts the figures, as fractions of 1."""

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
        ``AP`` (mean over IoU 0.5 to 0.95), ``AP50`` and ``AP75`` in percent.

    Raises:
        UserError: if there is nothing to resume or evaluate, weights do not match the architecture, an annotation
            cannot be used, or the evaluator does not give the three figures. ``out`` is not touched then.
    """
    names = _metric_names(config.val_evaluator)
    for loader in (config.val_dataloader,) if eval_only else (config.train_dataloader, config.val_dataloader):
        check_annotations(loader.dataset)
    checkpoint = _checkpoint(out, resume, eval_only, weights)
    _check_weights(config, checkpoint, pretrained=not eval_only)
    config = copy.deepcopy(config)
    config.work_dir = str(out)
    config.load_from = None if checkpoint is None else str(checkpoint)
    config.resume = resume
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    # Loggers and message hubs live as long as the process, under the experiment's name.
    config.experiment_name = f"{out.name}_{uuid.uuid4().hex[:8]}"
    runner = Runner.from_cfg(config)
    if eval_only:
        metrics = runner.val()
    else:
        last = _LastEvaluation()
        runner.register_hook(last)
        runner.train()
        metrics = last.metrics or runner.val()
    return {name: 100 * float(metrics[key]) for name, key in names.items()}


class _LastEvaluation(Hook):
    """Keeps what the evaluator said last."""

    metrics: Mapping[str, float] | None = None

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = metrics


def _metric_names(evaluator: Any) -> Mapping[str, str]:
    for entry in evaluator if isinstance(evaluator, list) else [evaluator]:
        if entry.type == "VOCMetric" and list(entry.get("iou_thrs", [])) != IOU_THRESHOLDS:
            raise UserError(
                f"val_evaluator has iou_thrs={entry.get('iou_thrs', 0.5)}; expected {IOU_THRESHOLDS}, whose mean is AP"
            )
        if entry.type in METRICS:
            return METRICS[entry.type]
    raise UserError(f"val_evaluator is {evaluator}; expected one of type {' or '.join(METRICS)}")


def _checkpoint(out: Path, resume: bool, eval_only: bool, weights: Path | None) -> Path | None:
    if resume and (eval_only or weights):
        raise UserError(f"resume goes on from the last checkpoint in {out}; leave out eval_only and weights")
    if weights is not None:
        return weights
    if not resume and not eval_only:
        return None
    last = find_latest_checkpoint(str(out)) if out.is_dir() else None
    # The framework keeps an absolute path, which is another run's once the folder was copied or moved.
    found = next((path for path in (out / Path(last).name, Path(last)) if path.is_file()), None) if last else None
    if found is None:
        raise UserError(f"there is no checkpoint in {out} to {'resume' if resume else 'evaluate'}; train first")
    return found


def _check_weights(config: Config, checkpoint: Path | None, pretrained: bool) -> None:
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    if pretrained:
        for part in model.modules():
            if isinstance(part, (OpenMMLabResNet, DATAResLayer)) and pretrained_file(part.init_cfg):
                part.init_weights()
    if checkpoint is not None:
        with _mmengine_values():
            contents, _ = read_tensors(checkpoint)
        found = contents.get("state_dict", contents)
        require_matching(checkpoint, found, model.state_dict(), "the weights of this config's detector")


@contextmanager
def _mmengine_values() -> Iterator[None]:
    """Let a checkpoint hold what MMEngine adds to the weights: the history of scalars, in numpy arrays."""
    rebuilds: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    types: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.int64))]
    history = [HistoryBuffer, (_history_method, "builtins.getattr")]
    with torch.serialization.safe_globals([*rebuilds, *types, *history]):
        yield


def _history_method(owner: Any, name: str) -> Any:
    """The one use of ``getattr`` in MMEngine's checkpoints; any other could reach any code."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"getattr of {name!r}")
    return getattr(owner, name)
