"""Batch-norm statistics of every network of a prefix tree, at the cost of one more walk over it.

A supernet's running statistics mix those of all its networks. What a batch norm of one network sees depends on the
blocks before it alone, so two networks that share a prefix share the statistics in it: they are kept by block and by
the path that leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_plugin.backbones.bottleneck import Bottleneck
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import SlicedBatchNorm2d
from data_plugin.features.prefix_tree import Stages, Visit, prefix, walk
from data_plugin.space.arch import STAGES, Arch

Place = tuple[int, ...]
"""Where a block stands: the choices that lead to its stage, the stage's width, and its number in it; or the stem's
width."""

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm of one block."""

NormsAt = list[tuple[Place, list[tuple[SlicedBatchNorm2d, int]]]]
"""Batch norms by the place of their block, each with the number of channels in use."""


class NormStatistics:
    """Statistics of given images for the networks of a supernet.

    Args:
        supernet: the supernet; outside of the walks it is as it was.
        last_stage: stages after this one, 0 to 3, are not computed.

    Attributes:
        by_place: what has been found so far.
    """

    def __init__(self, supernet: DynamicResNet, last_stage: int = STAGES - 1) -> None:
        self.supernet = supernet
        self.last_stage = last_stage
        self.by_place: dict[Place, Statistics] = {}

    def add(self, archs: Sequence[Arch], batches: Iterable[Tensor], visit: Visit = lambda *_: None) -> None:
        """Take the statistics of networks: means over batches, each normalised with statistics of its own.

        Args:
            archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them; places that are known
                already keep their statistics.
            batches: images (N, 3, H, W) on the supernet's device; every batch counts the same.
            visit: sees the features of every walk, see :func:`data_plugin.features.prefix_tree.walk`.
        """
        new: dict[Place, Statistics] = {}
        for done, images in enumerate(batches):
            with kept_norms(self.supernet):
                parts = _Parts(self.supernet, partial(self._average, new, done))
                walk_traced(parts, images, archs, self.last_stage, visit)
        self.by_place.update(new)

    def _average(self, new: dict[Place, Statistics], done: int, norms: NormsAt, part: Callable[[], Tensor]) -> Tensor:
        """Run a part with batch statistics, and take them into the means over ``done`` earlier batches."""
        for _, at in norms:
            for norm, _ in at:
                norm.training, norm.momentum = True, 1.0
        result = part()
        for place, at in norms:
            if place not in self.by_place:
                found = [tuple(buffer[:channels] for buffer in buffers(norm)) for norm, channels in at]
                averaged(new, place, found, done)
        return result

    @contextmanager
    def walked(self) -> Iterator[Stages[Traced]]:
        """What to walk over with the statistics, in any order; see :func:`walk_traced`."""

        def run(norms: NormsAt, part: Callable[[], Tensor]) -> Tensor:
            for place, at in norms:
                for (norm, channels), values in zip(at, self.by_place[place], strict=True):
                    norm.training = False
                    for buffer, value in zip(buffers(norm), values, strict=True):
                        buffer[:channels] = value
            return part()

        with kept_norms(self.supernet):
            yield _Parts(self.supernet, run)

    @torch.no_grad()
    def write_to(self, network: DATAResNet) -> None:
        """Give a network that was extracted from the supernet its statistics."""
        arch = network.arch
        norms: list[tuple[Place, list[nn.Module]]] = [((arch.stem,), [network.bn1])]
        for stage in range(STAGES):
            for block, module in enumerate(network.get_submodule(f"layer{stage + 1}").children()):
                assert isinstance(module, Bottleneck)
                shortcut = [] if module.downsample is None else [module.downsample[1]]
                norms.append((_place(prefix(arch, stage), block), [module.bn1, module.bn2, module.bn3, *shortcut]))
        for place, modules in norms:
            for norm, values in zip(modules, self.by_place[place], strict=True):
                for buffer, value in zip(buffers(norm), values, strict=True):
                    buffer.copy_(value)


class Traced(NamedTuple):
    """Features, and the choices that lead to them as :func:`data_plugin.features.prefix_tree.prefix` has them."""

    x: Tensor
    path: tuple[int, ...]


def walk_traced(stages: Stages[Traced], images: Tensor, archs: Sequence[Arch], last_stage: int, visit: Visit) -> None:
    """:func:`data_plugin.features.prefix_tree.walk` over stages that need to know the path to their input."""

    def visit_features(stage: int, traced: Traced, first: int, end: int) -> None:
        visit(stage, traced.x, first, end)

    walk(stages, Traced(images, ()), archs, last_stage, visit_features)


def statistics_bytes(supernet: DynamicResNet, archs: Sequence[Arch], last_stage: int) -> int:
    """Bytes of the statistics that :class:`NormStatistics` keeps for networks."""
    sizes: dict[Place, int] = {}

    def count(norms: NormsAt, part: Callable[[], Tensor]) -> Tensor:
        for place, at in norms:
            sizes[place] = sum(buffer[:channels].nbytes for norm, channels in at for buffer in buffers(norm))
        return nothing

    nothing = torch.empty(0)
    walk_traced(_Parts(supernet, count), nothing, archs, last_stage, lambda *_: None)
    return sum(sizes.values())


def averaged(means: dict[Place, Statistics], place: Place, found: Sequence[Sequence[Tensor]], done: int) -> None:
    """Take a batch's statistics into the means over ``done`` earlier batches."""
    if done == 0:
        means[place] = [(mean.clone(), var.clone()) for mean, var in found]
        return
    for old, new in zip(means[place], found, strict=True):
        for average, value in zip(old, new, strict=True):
            average += (value - average) / (done + 1)


def buffers(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a batch norm."""
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")


@dataclass(frozen=True)
class _Parts:
    """A supernet whose stem and stages are run by something else, which is told the places of their batch norms."""

    supernet: DynamicResNet
    run: Callable[[NormsAt, Callable[[], Tensor]], Tensor]

    def stem(self, x: Traced, width: int) -> Traced:
        norms: NormsAt = [((width,), self.supernet.stem_norms(width))]
        return Traced(self.run(norms, lambda: self.supernet.stem(x.x, width)), (width,))

    def stage(self, index: int, x: Traced, width: int, depth: int, start: int = 0) -> Traced:
        # Where the stage goes on at an earlier depth, that depth is in the path already.
        path = (*x.path[: 2 * index + 1], width, depth)
        blocks = self.supernet.blocks(index)
        norms = [(_place(path, block), blocks[block].norms(width)) for block in range(start, depth)]
        return Traced(self.run(norms, lambda: self.supernet.stage(index, x.x, width, depth, start)), path)


def _place(path: tuple[int, ...], block: int) -> Place:
    """Where a block stands in the last stage of a path: there the depth decides nothing, the block's number all."""
    return (*path[:-1], block)


@contextmanager
def kept_norms(supernet: nn.Module) -> Iterator[list[SlicedBatchNorm2d]]:
    """Put back every batch norm's mode, momentum and statistics after a ``with``; yields them all."""
    norms = [module for module in supernet.modules() if isinstance(module, SlicedBatchNorm2d)]
    before = [(n.training, n.momentum, [buffer.clone() for buffer in n.buffers()]) for n in norms]
    try:
        yield norms
    finally:
        for norm, (training, momentum, values) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum
            for buffer, value in zip(norm.buffers(), values, strict=True):
                buffer.copy_(value)
