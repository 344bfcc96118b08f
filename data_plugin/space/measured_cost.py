"""What networks cost on the device at hand: inference latency and peak memory, from what is measured there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from data_plugin.backbones.bottleneck import Bottleneck, block_dilation
from data_plugin.space.arch import Arch
from data_plugin.space.blocks import Block, block_counts, blocks_of
from data_plugin.space.cost import params
from data_plugin.space.latency_model import LatencyModel, fit_latency, networks_to_measure
from data_plugin.space.resolution import Resolution
from data_plugin.space.runtimes import torch_latency
from data_plugin.space.search_space import SearchSpace
from data_plugin.space.whole_cost import Measure, whole_cost, whole_costs
from data_plugin.utils.ranks import from_first, rank

FLOAT_BYTES = 4
"""Bytes of a weight."""


def measure_blocks(
    blocks: Sequence[Block],
    device: torch.device,
    measure: Measure,
    dilations: Sequence[int] = (1, 1, 1, 1),
    contract_dilation: bool = False,
) -> np.ndarray:
    """Measure every block (blocks,) once on its own, at the resolution that it has in the network.

    Args:
        blocks: the blocks.
        device: where to measure.
        measure: what to measure.
        dilations: dilations of the 3x3 convolutions of the four stages.
        contract_dilation: halve the dilation of every stage's first bottleneck.
    """
    costs = []
    for block in blocks:
        module = _module(block, dilations[block.stage], contract_dilation)
        with torch.inference_mode():
            images = torch.randn(1, block.channels, *block.size, device=device)
            costs.append(measure(module.eval().to(device), images))
    return np.array(costs)


def compose_memory(blocks: Sequence[Block], activations: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Peak memory (N,) in bytes of networks (N, 9): all weights and the activations of the most demanding block.

    Args:
        blocks: all blocks of the space.
        activations: measured bytes of activations of each, (blocks,).
        table: the networks.
    """
    most = np.max(np.where(block_counts(blocks, table) > 0, activations, 0.0), axis=1)
    return most + FLOAT_BYTES * params(table)


class MeasuredCosts:
    """Latency and peak memory of a space's networks, measured when first asked for.

    Args:
        space: the search space.
        input_size: gives height and width of the images in pixels; is asked with the first measurement.
        device: where to measure.
        resolution: at which strides and dilations the networks run.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_size: Callable[[], tuple[int, int]],
        device: torch.device,
        resolution: Resolution,
    ) -> None:
        self.space = space
        self.device = device
        self.resolution = resolution
        self._ask_input_size = input_size

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self._ask_input_size()

    @cached_property
    def _blocks(self) -> list[Block]:
        return blocks_of(self.space, self.input_size, self.resolution.strides)

    # All processes have to go by the same figures, so the first one measures.
    @cached_property
    def _latencies(self) -> LatencyModel:
        archs = networks_to_measure(self.space)
        options = self.resolution.options()
        seconds = from_first(
            whole_costs(archs, self.input_size, self.device, torch_latency, **options) if rank() == 0 else None
        )
        assert seconds is not None
        return fit_latency(self._blocks, np.array([arch.row for arch in archs]), seconds)

    @cached_property
    def _activations(self) -> np.ndarray:
        dilations, contract = self.resolution.dilations, self.resolution.contract_dilation
        activations = from_first(
            measure_blocks(self._blocks, self.device, activations_of, dilations, contract) if rank() == 0 else None
        )
        assert activations is not None
        return activations

    def prepare(self, quantities: Iterable[str]) -> None:
        """Measure what budgets over these quantities need; several processes have to call this at the same point."""
        for quantity in sorted(quantities):
            if quantity == "latency":
                _ = self._latencies
            elif quantity == "memory":
                _ = self._activations

    def latency(self, table: np.ndarray) -> np.ndarray:
        """Latency (N,) in seconds of networks (N, 9) for one image."""
        return self._latencies.latency(table)

    def memory(self, table: np.ndarray) -> np.ndarray:
        """Peak memory (N,) in bytes of networks (N, 9) for one image."""
        return compose_memory(self._blocks, self._activations, table)

    def whole(self, quantity: str, arch: Arch) -> float:
        """Latency or memory of one network, measured whole, to check what is composed."""
        options = self.resolution.options()
        if quantity == "latency":
            return whole_cost(arch, self.input_size, self.device, torch_latency, **options)
        activations = whole_cost(arch, self.input_size, self.device, activations_of, **options)
        return activations + FLOAT_BYTES * params(arch)


def activations_of(module: nn.Module, images: Tensor) -> float:
    """Most bytes that are allocated at once in one call, its input and output included and its weights not."""
    module(images)
    held = images.numel() * images.element_size()
    if images.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        module(images)
        torch.cuda.synchronize()
        return float(held + torch.cuda.max_memory_allocated(images.device) - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        module(images)
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return float(held + np.cumsum([0, *changes]).max())


def _module(block: Block, dilation: int, contract_dilation: bool) -> nn.Module:
    if block.kind == "stem":
        return nn.Sequential(
            nn.Conv2d(block.channels, block.width, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(block.width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        )
    first = block.kind == "first"
    dilation = block_dilation(0, dilation, contract_dilation) if first else dilation
    return Bottleneck(block.channels, block.width, block.stride, dilation, shortcut=first)
