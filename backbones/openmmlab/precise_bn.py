"""Batch-norm statistics of many batches instead of a moving average, before every evaluation."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from data_plugin.utils.errors import UserError


class PreciseBNHook(Hook):
    """Replace the running statistics of batch norms in training by their average over many training batches.

    What detectron2 does with ``TEST.PRECISE_BN`` and OpenMMLab has no hook for (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, section 3). It runs whenever the training loop is about to validate, before the checkpoint of
    that iteration is written.

    Args:
        num_iters: batches to average over, drawn by a loader of their own.

    Raises:
        UserError: if ``num_iters`` is below 1 or the training loop does not count iterations.
    """

    def __init__(self, num_iters: int = 200) -> None:
        if num_iters < 1:
            raise UserError(f"PreciseBNHook has num_iters={num_iters}; expected at least 1")
        self.num_iters = num_iters

    def before_train(self, runner: Runner) -> None:
        """Check the loop before any time is spent in it."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError(
                f"PreciseBNHook cannot follow a {type(runner.train_loop).__name__}; "
                "give train_cfg type='IterBasedTrainLoop', or remove the hook"
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run where the loop will validate after this iteration."""
        loop = runner.train_loop
        assert isinstance(loop, IterBasedTrainLoop)
        if self.every_n_train_iters(runner, loop.val_interval) or self.is_last_train_iter(runner):
            self._update(runner)

    def _update(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        norms = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
        ]
        if not norms:
            return
        runner.logger.info(f"Precise batch norm: statistics of {len(norms)} layers over {self.num_iters} batches")
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
        try:
            with torch.no_grad():
                for batch in itertools.islice(self._loader(runner), self.num_iters):
                    model(**model.data_preprocessor(batch, True), mode="loss")
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def _loader(self, runner: Runner) -> Any:
        settings = copy.deepcopy(runner.cfg.train_dataloader)
        settings.persistent_workers = False
        return runner.build_dataloader(settings, seed=runner.seed)
