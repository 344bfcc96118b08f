"""Fine-tuning and evaluating a detector with detectron2's own trainer and evaluators."""

from __future__ import annotations

import logging
import math
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, default_setup, train_loop
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

from data_plugin.backbones.detectron2.cityscapes import InstanceEvaluator
from data_plugin.backbones.detectron2.device import on_available_device
from data_plugin.backbones.detectron2.labels import (
    CLASSES_OF,
    require_data_sets,
    require_evaluable,
    require_labels,
    require_same_classes,
)
from data_plugin.backbones.detectron2.ranks import join_ranks, wrapping_for
from data_plugin.backbones.detectron2.rehearsal import rehearse_evaluation
from data_plugin.backbones.detectron2.weights import BY_NAME_ENDINGS, require_detector, require_start
from data_plugin.utils.errors import UserError

EVALUATORS = {
    "cityscapes_instance": InstanceEvaluator,
    "coco": COCOEvaluator,
    "pascal_voc": PascalVOCDetectionEvaluator,
}
"""The evaluator of each ``evaluator_type`` of a data set's metadata."""

PREFIXES = {"bbox": "", "segm": "mask ", "keypoints": "keypoint "}
"""What the figures of each task are called in front of their own names."""


class Trainer(DefaultTrainer):
    """detectron2's default trainer with the evaluator that a data set's metadata names, on several CPUs too."""

    def __init__(self, cfg: CfgNode) -> None:
        with wrapping_for(cfg.MODEL.DEVICE):
            super().__init__(cfg)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a data set.

        Raises:
            UserError: if it is none of :data:`EVALUATORS`.
        """
        kind = _evaluator_type(dataset_name)
        if kind == "coco":
            # Left to itself the evaluator takes the tasks from the first prediction, of which there may be none.
            asked = {"bbox": True, "segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
            return COCOEvaluator(
                dataset_name,
                tasks=tuple(task for task, wanted in asked.items() if wanted),
                output_dir=str(Path(cfg.OUTPUT_DIR) / "inference"),
                kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
                allow_cached_coco=False,  # of labels numbered by DATASETS.CLASSES, which may be another run's
            )
        return EVALUATORS[kind](dataset_name)


@contextmanager
def _log_of_its_own() -> Iterator[None]:
    """Take the handlers of a run's log away after it, or the next run of the process would write to them as well."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]  # those that default_setup sets up
    before = [set(logger.handlers) for logger in loggers]
    try:
        yield
    finally:
        for logger, kept in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - kept:
                logger.removeHandler(handler)
        setup_logger.cache_clear()  # it does nothing where it believes that the handlers are there


@_log_of_its_own()
def finetune(
    config: CfgNode,
    out: Path,
    *,
    resume: bool = False,
    eval_only: bool = False,
    weights: Path | None = None,
    stepped: Callable[[int], None] = lambda step: None,
) -> Mapping[str, float]:
    """Train and evaluate a detector; see :meth:`data_plugin.frameworks.framework_config.FrameworkConfig.finetune`.

    Training starts from ``weights`` or else from ``MODEL.WEIGHTS``, a whole detector or a backbone in torchvision's
    names. It runs on all processes of a ``torchrun``, and every one of them returns the figures.
    """
    if config.MODEL.META_ARCHITECTURE not in CLASSES_OF:
        raise UserError(
            f"the config's MODEL.META_ARCHITECTURE is {config.MODEL.META_ARCHITECTURE}, and fine-tuning here is for "
            f"{' and '.join(CLASSES_OF)}; detectron2's own tools/train_net.py trains the config that a search writes"
        )
    cfg = on_available_device(config)
    if not eval_only and cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise UserError(
            "the config's SOLVER.AMP.ENABLED is True, and detectron2 trains in mixed precision on GPUs only; to train "
            "on the CPU set it to False"
        )
    cfg.OUTPUT_DIR = str(out)
    start = _start(cfg, out, resume, eval_only, weights)
    data_sets = dict(require_data_sets(cfg.DATASETS.TEST))
    if not eval_only:
        data_sets.update(require_data_sets(cfg.DATASETS.TRAIN))
    for name in cfg.DATASETS.TEST:
        _evaluator_type(name)
    require_evaluable(cfg.DATASETS.TEST)
    require_labels(cfg, data_sets)
    require_same_classes(list(data_sets))
    cfg.MODEL.WEIGHTS = ""
    if start is not None:
        model, what = build_model(cfg), f"a detector with the backbone {cfg.MODEL.DATA_RESNET.ARCH}"
        if eval_only or resume:
            require_detector(start, model, what)
            cfg.MODEL.WEIGHTS = str(start)
        else:
            cfg.MODEL.WEIGHTS = require_start(start, model, what)
    join_ranks(cfg)
    cfg.freeze()
    default_setup(cfg, Namespace(resume=resume, eval_only=eval_only))

    results: Mapping[str, Any]
    if eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        _after_first_batch(model, partial(stepped, 0))
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.register_hooks([_Steps(stepped)])
        rehearse_evaluation(trainer)
        with _without_tracebacks():
            trainer.train()
        results = trainer._last_eval_results
    results = comm.all_gather(results)[0]  # only the first process evaluates what all have predicted
    # detectron2 leaves the data set's name out where there is only one.
    return _figures(results.get(cfg.DATASETS.TEST[0], results))


def _after_first_batch(model: nn.Module, done: Callable[[], None]) -> None:
    """Let ``done`` be called when the model has seen its first batch."""

    def tell(*_: object) -> None:
        hook.remove()
        done()

    hook = model.register_forward_hook(tell)


class _Steps(HookBase):
    """Tells how many steps of training are done."""

    def __init__(self, stepped: Callable[[int], None]) -> None:
        self._stepped = stepped

    def after_step(self) -> None:
        self._stepped(self.trainer.iter + 1)


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Keep detectron2's loop from logging the traceback of what it raises, too, since a user may be to see none."""
    logger = logging.getLogger(train_loop.__name__)

    def has_none(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger.addFilter(has_none)
    try:
        yield
    finally:
        logger.removeFilter(has_none)


def _evaluator_type(data_set: str) -> str:
    kind = MetadataCatalog.get(data_set).get("evaluator_type")
    if kind not in EVALUATORS:
        raise UserError(f"the data set {data_set} has evaluator_type {kind!r}; expected one of {', '.join(EVALUATORS)}")
    return kind


def _figures(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """AP, AP50 and AP75 of boxes, masks and keypoints, in percent.

    detectron2 gives no number where nothing at all was detected; that is an AP of 0.
    """
    return {
        f"{prefix}{name}": 0.0 if math.isnan(results[task][name]) else float(results[task][name])
        for task, prefix in PREFIXES.items()
        for name in ("AP", "AP50", "AP75")
        if name in results.get(task, ())
    }


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
    return Path(PathManager.get_local_path(cfg.MODEL.WEIGHTS.removesuffix(BY_NAME_ENDINGS)))
