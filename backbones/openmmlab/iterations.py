"""A training with MMEngine in fewer or more iterations than its config's, its schedule in proportion."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from data_plugin.utils.errors import UserError

CHECKPOINTS = 4
"""Checkpoints that a training leaves to go on from."""

WARM_UP = 0.1
"""Part of the training that a warm-up may take where it counts iterations and the training epochs."""

LENGTHS = ("begin", "end", "T_max", "step_size", "total_steps")
"""What schedulers call times and lengths."""


def set_iterations(config: Config, iterations: int) -> None:
    """Give a training another length, counted in iterations: its schedule shrinks or grows with it.

    Args:
        config: the config; changed in place.
        iterations: the new length, at least 1.

    Raises:
        UserError: if the config's training counts neither epochs nor iterations.
    """
    loop = config.train_cfg
    by_epoch = "max_epochs" in loop
    if not by_epoch and "max_iters" not in loop:
        raise UserError(
            f"the config's train_cfg is {dict(loop)}, without max_epochs and max_iters, so it cannot be trained for "
            f"{iterations} iterations; set its length in the config"
        )
    share = iterations / (loop.max_epochs if by_epoch else loop.max_iters)
    given = config.get("param_scheduler") or []
    schedulers = given if isinstance(given, list) else [given]
    for scheduler in schedulers:
        counts_epochs = by_epoch and scheduler.get("by_epoch", True)
        most = iterations if counts_epochs or not by_epoch else int(WARM_UP * iterations)
        _rescale(scheduler, share if counts_epochs or not by_epoch else 1.0, most)
    # MMEngine's warm-ups of a single step would leave the rate where they start.
    config.param_scheduler = [each for each in schedulers if each.get("end", math.inf) - each.get("begin", 0) > 1]
    config.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations)
    hook = (config.get("default_hooks") or {}).get("checkpoint")
    if hook:
        hook.update(by_epoch=False, interval=math.ceil(iterations / CHECKPOINTS))
    if config.get("log_processor"):
        config.log_processor.by_epoch = False


def _rescale(scheduler: ConfigDict, share: float, most: int) -> None:
    """Multiply all times of a scheduler, and let none be later than ``most``."""

    def scaled(time: int) -> int:
        return min(most, round(time * share))

    for name in LENGTHS:
        if scheduler.get(name) is not None:
            scheduler[name] = scaled(scheduler[name])
    if scheduler.get("milestones"):
        scheduler.milestones = [scaled(time) for time in scheduler.milestones]
    scheduler.by_epoch = False
    scheduler.pop("convert_to_iter_based", None)
