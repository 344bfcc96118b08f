"""Batch-norm statistics of every network of a prefix tree, at the cost of one more walk over it.

A supernet's running statistics mix those of all its networks (see
:mod:`data_plugin.supernet.calibration`). Two networks that share a prefix have the same statistics in it, and a walk
runs each prefix once and always in the same order, so the statistics of the n-th part of a walk are simply those that
an earlier walk found at its n-th part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import SlicedBatchNorm2d
from data_plugin.features.prefix_tree import Stages, walk
from data_plugin.space.arch import Arch

PartStatistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm of one part of a walk."""


class Recalibrated:
    """A supernet whose parts run with statistics of given images, in walks over given networks.

    Args:
        supernet: the supernet; outside of the walks it is as it was.
        archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them.
        last_stage: stages after this one, 0 to 3, are not computed.
        batches: images (N, 3, H, W) on the supernet's device; every batch counts the same.
    """

    def __init__(
        self, supernet: DynamicResNet, archs: Sequence[Arch], last_stage: int, batches: Iterable[Tensor]
    ) -> None:
        self.supernet = supernet
        self.statistics: list[PartStatistics] = []
        for done, images in enumerate(batches):
            with _kept(supernet):
                walk(_Parts(supernet, _averaging(self.statistics, done)), images, archs, last_stage, lambda *_: None)

    @contextmanager
    def walked(self) -> Iterator[Stages[Tensor]]:
        """What to walk over, once, with the statistics."""
        with _kept(self.supernet):
            yield _Parts(self.supernet, _applying(self.statistics))


def statistics_bytes(supernet: DynamicResNet, archs: Sequence[Arch], last_stage: int) -> int:
    """Bytes of the statistics that :class:`Recalibrated` with these arguments keeps."""
    total = 0

    def count(norms: Sequence[tuple[SlicedBatchNorm2d, int]], part: Callable[[], Tensor]) -> Tensor:
        nonlocal total
        total += sum(buffer[:channels].nbytes for norm, channels in norms for buffer in _buffers(norm))
        return nothing

    nothing = torch.empty(0)
    walk(_Parts(supernet, count), nothing, archs, last_stage, lambda *_: None)
    return total


Run = Callable[[Sequence[tuple[SlicedBatchNorm2d, int]], Callable[[], Tensor]], Tensor]
"""Runs a part of a walk, given the batch norms in it, each with the number of channels in use."""


@dataclass(frozen=True)
class _Parts:
    """A supernet whose stem and stages are run by something else."""

    supernet: DynamicResNet
    run: Run

    def stem(self, x: Tensor, width: int) -> Tensor:
        return self.run(self.supernet.stem_norms(width), lambda: self.supernet.stem(x, width))

    def stage(self, index: int, x: Tensor, width: int, depth: int, start: int = 0) -> Tensor:
        norms = [norm for block in self.supernet.blocks(index)[start:depth] for norm in block.norms(width)]
        return self.run(norms, lambda: self.supernet.stage(index, x, width, depth, start))


def _averaging(statistics: list[PartStatistics], done: int) -> Run:
    """Normalise with batch statistics and take them into ``statistics``, the means over ``done`` earlier batches."""
    before = iter(statistics)

    def run(norms: Sequence[tuple[SlicedBatchNorm2d, int]], part: Callable[[], Tensor]) -> Tensor:
        for norm, _ in norms:
            norm.training, norm.momentum = True, 1.0
        result = part()
        found = [(mean[:c], var[:c]) for norm, c in norms for mean, var in [_buffers(norm)]]
        if done == 0:
            statistics.append([(mean.clone(), var.clone()) for mean, var in found])
        else:
            for old, new in zip(next(before), found, strict=True):
                for mean, value in zip(old, new, strict=True):
                    mean += (value - mean) / (done + 1)
        return result

    return run


def _applying(statistics: Sequence[PartStatistics]) -> Run:
    """Normalise with the given statistics, part by part."""
    following = iter(statistics)

    def run(norms: Sequence[tuple[SlicedBatchNorm2d, int]], part: Callable[[], Tensor]) -> Tensor:
        for (norm, channels), values in zip(norms, next(following), strict=True):
            norm.training = False
            for buffer, value in zip(_buffers(norm), values, strict=True):
                buffer[:channels] = value
        return part()

    return run


@contextmanager
def _kept(supernet: DynamicResNet) -> Iterator[None]:
    """Put back every batch norm's mode, momentum and statistics afterwards."""
    norms = [module for module in supernet.modules() if isinstance(module, SlicedBatchNorm2d)]
    before = [(n.training, n.momentum, [buffer.clone() for buffer in n.buffers()]) for n in norms]
    try:
        yield
    finally:
        for norm, (training, momentum, buffers) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)


def _buffers(norm: SlicedBatchNorm2d) -> tuple[Tensor, Tensor]:
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")
