"""A batch of evaluation before a training begins, so that what cannot be evaluated is found before hours are spent."""

from __future__ import annotations

import torch
from mmengine.runner import Runner, ValLoop
from mmengine.runner.amp import autocast

from data_plugin.utils.random_state import kept_random_state
from data_plugin.utils.silence import silence


def rehearse_evaluation(runner: Runner) -> None:
    """Take the first batch of the validation set through loader, model and evaluator.

    Nothing of it stays: neither in the model, nor in the evaluator, nor in random numbers.

    Args:
        runner: the runner, about to train; a validation loop of another kind than MMEngine's goes unrehearsed.
    """
    loop = runner.val_loop
    if not isinstance(loop, ValLoop):
        return
    loader = loop.dataloader
    with kept_random_state(), silence(runner.logger), torch.no_grad():
        # Not by the loader itself, whose processes would have to be started for it.
        batch = loader.collate_fn([loader.dataset[index] for index in next(iter(loader.batch_sampler))])
        runner.model.eval()  # training sets it back before every step
        with autocast(enabled=loop.fp16):
            outputs = runner.model.val_step(batch)
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        loop.evaluator.evaluate(len(outputs))
