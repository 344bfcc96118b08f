"""An image of evaluation before a training begins, so that what cannot be evaluated is found before hours are spent."""

from __future__ import annotations

import torch
from detectron2.engine import DefaultTrainer
from detectron2.evaluation.evaluator import inference_context

from data_plugin.utils.random_state import kept_random_state
from data_plugin.utils.silence import silence


def rehearse_evaluation(trainer: DefaultTrainer) -> None:
    """Take the first image of every test set through loader, model and evaluator.

    Nothing of it stays: neither in the model nor in random numbers. Figures are left out, since evaluators make them of
    whole data sets alone.

    Args:
        trainer: the trainer, about to train.
    """
    with kept_random_state(), silence(), inference_context(trainer.model), torch.no_grad():
        for name in trainer.cfg.DATASETS.TEST:
            loader = trainer.build_test_loader(trainer.cfg, name)
            # Not by the loader itself, whose processes would have to be started for it.
            batch = loader.collate_fn([loader.dataset[0]])
            evaluator = trainer.build_evaluator(trainer.cfg, name)
            evaluator.reset()
            evaluator.process(batch, trainer.model(batch))
