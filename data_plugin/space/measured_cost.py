"""What networks cost on the device at hand: inference latency and peak memory, composed from measured blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from data_plugin.backbones.bottleneck import Bottleneck, block_dilation
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.space.cost import STRIDES, params
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.ranks import from_first, rank

Measure = Callable[[nn.Module, Tensor], float]
"""Measures one call of a module on an input."""

FLOAT_BYTES = 4
"""Bytes of a weight."""


@dataclass(frozen=True)
class BlockCosts:
    """Costs of a space's building blocks, from which those of all its networks follow.

    A network is its stem, the first block of every stage, which depends on the width before it, and later blocks
    that are all alike: 51 parts make up the 85,293 networks of the paper's space.

    Args:
        stem: cost by stem width.
        first: per stage, cost of its first block by input channels and width.
        later: per stage, cost of a later block by width.
    """

    stem: dict[int, float]
    first: tuple[dict[tuple[int, int], float], ...]
    later: tuple[dict[int, float], ...]

    def parts(self, table: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For networks (N, 9), the costs (N,) of their stem, first and later blocks, each with its number (N,)."""
        widths, depths = table[:, 1 : 1 + STAGES], table[:, 1 + STAGES :]
        yield _look_up(self.stem, table[:, 0]), np.ones(len(table))
        incoming = table[:, 0]
        for stage in range(STAGES):
            width = widths[:, stage]
            costs = [self.first[stage][pair] for pair in zip(incoming.tolist(), width.tolist(), strict=True)]
            yield np.array(costs), np.ones(len(table))
            yield _look_up(self.later[stage], width), depths[:, stage] - 1.0
            incoming = EXPANSION * width


def measure_blocks(
    space: SearchSpace,
    input_size: tuple[int, int],
    device: torch.device,
    measure: Measure,
    strides: Sequence[int] = STRIDES,
    dilations: Sequence[int] = (1, 1, 1, 1),
    contract_dilation: bool = False,
) -> BlockCosts:
    """Measure every building block of a space once, at the resolution that it has in the network.

    Args:
        space: the search space.
        input_size: height and width of the images in pixels.
        device: where to measure.
        measure: what to measure.
        strides: strides of the four stages.
        dilations: dilations of the 3x3 convolutions of the four stages.
        contract_dilation: halve the dilation of every stage's first bottleneck.
    """

    def cost(module: nn.Module, channels: int, size: tuple[int, int]) -> float:
        with torch.inference_mode():
            return measure(module.eval().to(device), torch.randn(1, channels, *size, device=device))

    stem = {width: cost(_stem(width), 3, input_size) for width in space.stem}
    size = _smaller(_smaller(input_size, 2), 2)
    first: list[dict[tuple[int, int], float]] = []
    later: list[dict[int, float]] = []
    incoming = space.stem
    for stage, widths in enumerate(space.width):
        stride, dilation = strides[stage], dilations[stage]
        start = block_dilation(0, dilation, contract_dilation)
        first.append(
            {
                (channels, width): cost(Bottleneck(channels, width, stride, start, shortcut=True), channels, size)
                for channels in incoming
                for width in widths
            }
        )
        size = _smaller(size, stride)
        later.append({w: cost(Bottleneck(EXPANSION * w, w, 1, dilation), EXPANSION * w, size) for w in widths})
        incoming = tuple(EXPANSION * width for width in widths)
    return BlockCosts(stem, tuple(first), tuple(later))


def compose_latency(blocks: BlockCosts, table: np.ndarray) -> np.ndarray:
    """Latency (N,) in seconds of networks (N, 9): the sum over their blocks."""
    return np.sum([costs * counts for costs, counts in blocks.parts(table)], axis=0)


def compose_memory(blocks: BlockCosts, table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Peak memory (N,) in bytes of networks (N, 9): all weights and the activations of the most demanding block.

    Args:
        blocks: measured activations of the blocks.
        table: the networks.
        weights: their numbers of parameters (N,).
    """
    activations = np.max([np.where(counts > 0, costs, 0.0) for costs, counts in blocks.parts(table)], axis=0)
    return activations + FLOAT_BYTES * weights


class MeasuredCosts:
    """Latency and peak memory of a space's networks, measured when first asked for.

    Args:
        space: the search space.
        input_size: gives height and width of the images in pixels; is asked with the first measurement.
        device: where to measure.
        options: strides and dilations of the networks, as :class:`DATAResNet` takes them.
    """

    def __init__(
        self, space: SearchSpace, input_size: Callable[[], tuple[int, int]], device: torch.device, **options: Any
    ) -> None:
        self.space = space
        self.device = device
        self.options = options
        self._ask_input_size = input_size

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self._ask_input_size()

    @cached_property
    def _latencies(self) -> BlockCosts:
        return self._measured(latency_of)

    @cached_property
    def _activations(self) -> BlockCosts:
        return self._measured(activations_of)

    def _measured(self, measure: Measure) -> BlockCosts:
        # All processes have to go by the same figures.
        first = rank() == 0
        blocks = from_first(
            measure_blocks(self.space, self.input_size, self.device, measure, **self.options) if first else None
        )
        assert blocks is not None
        return blocks

    def prepare(self, quantities: Iterable[str]) -> None:
        """Measure what budgets over these quantities need; several processes have to call this at the same point."""
        for quantity in sorted(quantities):
            if quantity == "latency":
                _ = self._latencies
            elif quantity == "memory":
                _ = self._activations

    def latency(self, table: np.ndarray) -> np.ndarray:
        """Latency (N,) in seconds of networks (N, 9) for one image."""
        return compose_latency(self._latencies, table)

    def memory(self, table: np.ndarray) -> np.ndarray:
        """Peak memory (N,) in bytes of networks (N, 9) for one image."""
        return compose_memory(self._activations, table, params(table))

    def whole(self, quantity: str, arch: Arch) -> float:
        """Latency or memory of one network, measured whole, to check what is composed."""
        if quantity == "latency":
            return whole_cost(arch, self.input_size, self.device, latency_of, **self.options)
        activations = whole_cost(arch, self.input_size, self.device, activations_of, **self.options)
        return activations + FLOAT_BYTES * params(arch)


def latency_of(module: nn.Module, images: Tensor) -> float:
    """Median time in seconds of one call."""
    timer = Timer("module(images)", globals={"module": module, "images": images}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.1).median


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


def whole_cost(
    arch: Arch, input_size: tuple[int, int], device: torch.device, measure: Measure, **options: Any
) -> float:
    """What a whole network, a :class:`DATAResNet` with ``options``, costs by one measurement."""
    with torch.inference_mode():
        network = DATAResNet(arch, out_indices=(STAGES - 1,), **options).eval().to(device)
        return measure(network, torch.randn(1, 3, *input_size, device=device))


def _stem(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    )


def _smaller(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _look_up(costs: dict[int, float], keys: np.ndarray) -> np.ndarray:
    return np.array([costs[key] for key in keys.tolist()])
