"""Fine-tuning and evaluating a detector with detectron2's own trainer and evaluators."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from data_plugin.backbones.detectron2.datasets import require_data_sets, require_labels
from data_plugin.backbones.detectron2.device import on_available_device
from data_plugin.backbones.detectron2.weights import require_detector, require_start
from data_plugin.errors import UserError


class Trainer(DefaultTrainer):
    """detectron2's default trainer with the evaluator that a data set's metadata names."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a data set.

        Raises:
            UserError: if the data set is neither VOC nor COCO.
        """
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "coco":
            return COCOEvaluator(dataset_name, output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"))
        raise UserError(f"the data set {dataset_name} has evaluator_type {kind!r}; expected 'pascal_voc' or 'coco'")


def finetune(
    config: CfgNode, out: Path, *, resume: bool = False, eval_only: bool = False, weights: Path | None = None
) -> Mapping[str, float]:
    """Train and evaluate a detector; see :meth:`data_plugin.framework.Adapter.finetune`.

    Training starts from ``weights`` or else from ``MODEL.WEIGHTS``, a whole detector or a backbone in torchvision's
    names.
    """
    cfg = on_available_device(config)
    cfg.OUTPUT_DIR = str(out)
    start = _start(cfg, out, resume, eval_only, weights)
    cfg.MODEL.WEIGHTS = "" if start is None else str(start)
    data_sets = [*cfg.DATASETS.TEST, *(() if eval_only else cfg.DATASETS.TRAIN)]
    require_data_sets(data_sets)
    require_labels(cfg, data_sets)
    if start is not None:
        require = require_detector if eval_only or resume else require_start
        require(start, build_model(cfg), f"a detector with the backbone {cfg.MODEL.DATA_RESNET.ARCH}")
    cfg.freeze()
    default_setup(cfg, Namespace(resume=resume, eval_only=eval_only))

    results: Mapping[str, Any]
    if eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        results = trainer._last_eval_results
    boxes = results["bbox"] if "bbox" in results else results[cfg.DATASETS.TEST[0]]["bbox"]
    return {name: float(boxes[name]) for name in ("AP", "AP50", "AP75")}


def _start(cfg: CfgNode, out: Path, resume: bool, eval_only: bool, weights: Path | None) -> Path | None:
    """The file that training or evaluation starts from; None for random weights.

    Raises:
        UserError: if there is nothing to resume or evaluate.
    """
    if weights is not None and resume:
        raise UserError(f"resuming goes on from the last checkpoint in {out}; leave the weights {weights} out")
    if weights is not None:
        return weights
    if resume or eval_only:
        last = DetectionCheckpointer(None, str(out)).get_checkpoint_file()
        if not last:
            what, instead = ("evaluate", "give the weights of a detector") if eval_only else ("resume", "do not resume")
            raise UserError(f"{out} has no checkpoint to {what}; train into it first, or {instead}")
        return Path(last)
    if not cfg.MODEL.WEIGHTS:
        warnings.warn("the config's MODEL.WEIGHTS is empty: training starts from random weights", stacklevel=3)
        return None
    return Path(PathManager.get_local_path(cfg.MODEL.WEIGHTS))
