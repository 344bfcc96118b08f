"""What reproducing a row of a table would take, and what is missing for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.frameworks.registry import find_framework
from data_plugin.reproduce.experiment import budgets_of
from data_plugin.reproduce.recipe import Experiment, Row, Scale
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.resolution import Resolution
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

PEAK = 989e12
"""Operations a second on dense matrices in bfloat16 of an H100 SXM, by the vendor's data sheet."""

PICKS = 6
"""Fine-tunings of a budget: the pick, a random one, most FLOPs, most parameters, and ResNet-50's shape twice; in
round numbers, since some may be the same network."""

UTILISED = 0.2
"""Assumed part of it that a fine-tuning comes to."""

PIXELS, STEPS = 400 * 1216, 3
"""Pixels of all images of a step that is measured, which has 2 to 64 images, and how many steps."""

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
        hours: of the backbones forwards and backwards, at the config's strides and dilations; those of a RoI head, a
            neck and other heads are not in it, and can be more.
        clock: where these hours are from, in words.
        missing: what is not there, a sentence each.
    """

    row: str
    networks: int
    trainings: int
    length: str
    hours: float
    clock: str
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
    networks, repeated = [PICKS] * len(budgets), None
    if kind == "ranking":
        networks, repeated = experiment.networks_of, experiment.repeated
    again = sum(networks) if repeated is None else sum(min(each, repeated) for each in networks)
    trainings = sum(networks) + again * (len(experiment.seeds) - 1)
    size = (experiment.size[0], experiment.size[1])
    within = space.table[np.any([budget.fits(space.table, {"flops": cost.flops}) for budget in budgets], axis=0)]
    seconds, clock = _seconds(within, size, scale, _resolution(experiment))
    return Outlook(
        row=row.name,
        networks=sum(networks),
        trainings=trainings,
        length=f"{experiment.length:,} {'epochs' if experiment.task == 'classification' else 'iterations'}",
        hours=seconds * experiment.images * trainings / 3600,
        clock=clock,
        missing=_missing(experiment, scale, data),
    )


@cache
def step_seconds(arch: Arch, size: tuple[int, int], device: torch.device, resolution: Resolution) -> float:
    """Seconds that a backbone takes forwards and backwards for each image of a batch, the median of a few steps.

    Args:
        arch: its architecture.
        size: height and width of the images in pixels.
        device: where.
        resolution: its strides and dilations.
    """
    images = min(max(2, PIXELS // (size[0] * size[1])), 64)
    network = DATAResNet(arch, **resolution.options()).to(device).train()
    batch = torch.randn(images, 3, *size, device=device)

    def step() -> float:
        start = time.perf_counter()
        network(batch)[-1].sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    step()  # the first one prepares what later ones find
    return float(np.median([step() for _ in range(STEPS)])) / images


def _resolution(experiment: Experiment) -> Resolution:
    """At which strides and dilations backbones run; those of pre-training if the framework that says so is missing."""
    if not experiment.config:
        return Resolution()
    try:
        framework = find_framework(experiment.framework, experiment.config, experiment.task)
    except UserError:  # said among what is missing
        return Resolution()
    return framework.open(experiment.config, experiment.options).resolution


def _seconds(table: np.ndarray, size: tuple[int, int], scale: Scale, resolution: Resolution) -> tuple[float, str]:
    """Seconds that an image takes in a network of the table's mean cost, and where that is from."""
    flops = cost.flops(table, size, resolution.strides)
    if torch.cuda.is_available() or scale == SUITS_CPU:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        mean = Arch.from_row(table[np.abs(flops - flops.mean()).argmin()].tolist())
        threads = torch.get_num_threads()
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} CPU thread{'s' * (threads > 1)}"
        return step_seconds(mean, size, device, resolution), f"{name}, from a step that was measured"
    # A backward pass counts as two forward ones, and a multiply-accumulate is two operations.
    return float(2 * 3 * flops.mean()) / (PEAK * UTILISED), "an H100, computed, not measured"


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
