"""What reproducing a row of a table would take, and what is missing for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_plugin.frameworks.registry import find_framework
from data_plugin.reproduce.experiment import budgets_of
from data_plugin.reproduce.recipe import Experiment, Row, Scale
from data_plugin.space import cost
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

PEAK = 989e12
"""Operations a second on dense matrices in bfloat16 of an H100 SXM, by the vendor's data sheet."""

PICKS = 6
"""Fine-tunings of a budget: the pick, a random one, most FLOPs, most parameters, and ResNet-50's shape twice; in
round numbers, since some may be the same network."""

UTILISED = 0.2
"""Assumed part of it that a fine-tuning comes to."""

SUITS_CPU: Scale = "here"
"""The scale that needs no GPU."""


@dataclass(frozen=True)
class Outlook:
    """What a row would take.

    Args:
        row: the row's name.
        networks: networks that are fine-tuned, over all ranges.
        trainings: fine-tunings, over all seeds.
        length: of each, in words.
        gpu_hours: of the backbones forwards and backwards, at output stride 32, by :data:`PEAK` and :data:`UTILISED`.
        missing: what is not there, a sentence each.
    """

    row: str
    networks: int
    trainings: int
    length: str
    gpu_hours: float
    missing: list[str]


def outlook(kind: str, row: Row, experiment: Experiment, scale: Scale, space: SearchSpace, data: Path) -> Outlook:
    """What a row takes at a scale.

    Args:
        kind: the table's.
        row: the row.
        experiment: how it is run at that scale.
        scale: the scale.
        space: the supernet's space.
        data: the folder of all data sets.
    """
    budgets = budgets_of(space, experiment)
    networks = (PICKS if kind == "picks" else experiment.networks) * len(budgets)
    trainings = networks * len(experiment.seeds)
    size = (experiment.size[0], experiment.size[1])
    # A backward pass counts as two forward ones, and a multiply-accumulate is two operations.
    within = np.any([budget.fits(space.table, {"flops": cost.flops}) for budget in budgets], axis=0)
    operations = 2 * 3 * cost.flops(space.table, size)[within].mean() * experiment.images * trainings
    return Outlook(
        row=row.name,
        networks=networks,
        trainings=trainings,
        length=f"{experiment.length:,} {'epochs' if experiment.task == 'classification' else 'iterations'}",
        gpu_hours=float(operations) / (PEAK * UTILISED) / 3600,
        missing=_missing(experiment, scale, data),
    )


def _missing(experiment: Experiment, scale: Scale, data: Path) -> list[str]:
    folder = data / experiment.data
    parts = [folder / "train", folder / "val"] if experiment.task == "classification" else [folder]
    parts += [data / experiment.source] if experiment.source else []
    missing = [f"the folder {part}" for part in parts if not part.is_dir()]
    if experiment.supernet and not (data / experiment.supernet).is_file():
        missing.append(f"the supernet {data / experiment.supernet}")
    if experiment.config:
        try:
            find_framework(experiment.framework, experiment.config, experiment.task)
        except UserError as error:
            missing.append(f"a framework ({error})")
    if scale != SUITS_CPU and not torch.cuda.is_available():
        missing.append("a CUDA device")
    return missing
