"""What whole networks cost by measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import STAGES, Arch

Measure = Callable[[nn.Module, Tensor], float]
"""Measures one call of a module on an input."""


def whole_cost(
    arch: Arch, input_size: tuple[int, int], device: torch.device, measure: Measure, **options: Any
) -> float:
    """What a network of random weights, a :class:`DATAResNet` with ``options``, costs for one image by one measurement.

    Args:
        arch: the network.
        input_size: height and width of the image in pixels.
        device: where to measure.
        measure: what to measure.
        options: strides and dilations of the network.
    """
    with torch.no_grad():
        network = DATAResNet(arch, out_indices=(STAGES - 1,), **options).eval().to(device)
        return measure(network, torch.randn(1, 3, *input_size, device=device))


def whole_costs(
    archs: Sequence[Arch],
    input_size: tuple[int, int],
    device: torch.device,
    measure: Measure,
    advance: Callable[[float], None] = lambda networks: None,
    **options: Any,
) -> np.ndarray:
    """What each of several networks costs, (N,).

    Args are those of :func:`whole_cost`; ``advance`` is told of every network that is done.
    """
    costs = []
    for arch in archs:
        costs.append(whole_cost(arch, input_size, device, measure, **options))
        advance(1)
    return np.array(costs)
