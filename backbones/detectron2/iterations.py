"""A training of detectron2 in fewer or more iterations than its config's, its schedule in proportion."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

CHECKPOINTS = 4
"""Checkpoints that a training leaves to go on from."""


def set_iterations(cfg: CfgNode, iterations: int) -> None:
    """Give a training another length: its steps and its warm-up shrink or grow with it.

    Args:
        cfg: the config; changed in place.
        iterations: the new length, at least 1.
    """
    solver, share = cfg.SOLVER, iterations / cfg.SOLVER.MAX_ITER
    solver.STEPS = tuple(sorted({max(1, round(step * share)) for step in solver.STEPS} & set(range(1, iterations))))
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS * share)
    solver.MAX_ITER = iterations
    solver.CHECKPOINT_PERIOD = math.ceil(iterations / CHECKPOINTS)
    cfg.TEST.EVAL_PERIOD = 0
