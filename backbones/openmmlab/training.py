"""Training and evaluation with MMEngine's runner, and the checks before it."""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from data_plugin.backbones.openmmlab.batch_size import warn_of_another_batch
from data_plugin.backbones.openmmlab.checkpoint import read_state_dict
from data_plugin.backbones.openmmlab.cpu_ranks import join_cpu_ranks
from data_plugin.backbones.openmmlab.rehearsal import rehearse_evaluation
from data_plugin.backbones.openmmlab.resnet import pretrained_file
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import require_matching


def train_or_evaluate(
    config: Config,
    out: Path,
    scope: str,
    ours: tuple[type[nn.Module], ...],
    *,
    resume: bool = False,
    eval_only: bool = False,
    weights: Path | None = None,
    stepped: Callable[[int], None] = lambda step: None,
) -> Mapping[str, float]:
    """Train with MMEngine's runner and evaluate with the config's evaluator on its validation set.

    Runs on the CPU where there is no CUDA device, and on all processes of a ``torchrun``.

    Args:
        config: a config that names an architecture; it stays as it is.
        out: folder of checkpoints and logs.
        scope: the framework's registry scope.
        ours: modules that load the weights of a searched network.
        resume: go on from the last checkpoint in ``out``.
        eval_only: evaluate only, ``weights`` or else the last checkpoint in ``out``.
        weights: checkpoint of a whole model (``.pth``) to start from or to evaluate.
        stepped: see :meth:`FrameworkConfig.finetune`.

    Returns:
        What the evaluator said last.

    Raises:
        UserError: if there is nothing to resume or evaluate, weights do not match the architecture, or the config asks
            for mixed precision where there is no GPU. ``out`` is not touched then.
    """
    if not eval_only and config.optim_wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        raise UserError(
            "the config's optim_wrapper is AmpOptimWrapper, and MMEngine trains in mixed precision on GPUs only; to "
            "train on the CPU give the option optim_wrapper.type=OptimWrapper"
        )
    checkpoint = _checkpoint(out, resume, eval_only, weights)
    _check_weights(config, scope, checkpoint, () if eval_only else ours)
    config = copy.deepcopy(config)
    config.work_dir = str(out)
    config.load_from = None if checkpoint is None else str(checkpoint)
    config.resume = resume
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    if config.launcher == "pytorch" and not torch.cuda.is_available():
        join_cpu_ranks(config)
    # Loggers, message hubs and visualizers live as long as the process, under their names, with the first one's folder.
    config.experiment_name = f"{out.name}_{uuid.uuid4().hex[:8]}"
    if config.get("visualizer"):
        config.visualizer.name = config.experiment_name
    runner = Runner.from_cfg(config)
    watch = _Watch(stepped)
    runner.register_hook(watch, "LOWEST")  # a step is done when the other hooks are done with it
    if eval_only:
        return runner.val()
    if runner.rank == 0:
        warn_of_another_batch(config, runner.world_size)
    runner.train()
    return watch.metrics or runner.val()


class _Watch(Hook):
    """Rehearses the evaluation before a training, tells of the steps, and keeps what the evaluator said last."""

    def __init__(self, stepped: Callable[[int], None]) -> None:
        self._stepped = stepped
        self._first = 0
        self.metrics: Mapping[str, float] | None = None

    def before_train(self, runner: Runner) -> None:
        rehearse_evaluation(runner)
        self._first = runner.iter

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == self._first:
            # The logger would find out whether it can only when its first line is due.
            runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        self._stepped(runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._stepped(runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics = metrics


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


def _check_weights(config: Config, scope: str, checkpoint: Path | None, ours: tuple[type[nn.Module], ...]) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(config.model)
    for part in model.modules():
        if isinstance(part, ours) and pretrained_file(part.init_cfg):
            part.init_weights()  # type: ignore[operator]
    if checkpoint is not None:
        require_matching(
            checkpoint, read_state_dict(checkpoint), model.state_dict(), "the weights of this config's model"
        )
