"""Telling when training takes other batches than its learning rate is for."""

from __future__ import annotations

import warnings

from mmengine.config import Config


def warn_of_another_batch(config: Config, processes: int) -> None:
    """Warn where a step has another number of images than the learning rate is for.

    OpenMMLab's configs give the batch of one process, so that fewer GPUs than a recipe's train with a smaller batch and
    the recipe's learning rate. MMEngine scales the rate in proportion (Goyal et al., "Accurate, Large Minibatch SGD",
    2017) where ``auto_scale_lr.enable`` says so; that is left to the user, who may have set a rate of their own.

    Args:
        config: the config.
        processes: how many of them train together.
    """
    images = config.train_dataloader.get("batch_size", 1)
    scaling = config.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    step = f"a step is of {processes * images} images"
    if processes > 1:
        step += f" ({images} in each of {processes} processes)"
    if base is None:
        warnings.warn(
            f"{step}, and the config does not say for how many its learning rate is (auto_scale_lr.base_batch_size)",
            stacklevel=2,
        )
    elif base != processes * images:
        share = f"{processes * images / base:g}"
        iterations = config.train_cfg.get("max_iters")
        seen = f", and {iterations} iterations see {share} of the recipe's images" if iterations else ""
        scaled = f"is scaled by {share}" if scaling.get("enable") else "is not scaled (auto_scale_lr.enable=True does)"
        own = "" if base % processes else f"; train_dataloader.batch_size={base // processes} makes the recipe's batch"
        warnings.warn(
            f"THE BATCH IS NOT THE RECIPE'S: {step}, the learning rate is for {base} and {scaled}{seen}{own}",
            stacklevel=2,
        )
