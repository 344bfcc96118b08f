"""Running many networks of a supernet at the cost of their distinct prefixes.

Two networks that agree on the stem and the first stages compute the same features there, and a deep stage passes
through the outputs of the shallower ones. So the networks are walked as a tree, depth first: every prefix is
computed once, and one activation a level is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.space.cost import STRIDES

X = TypeVar("X")

Visit = Callable[[int, Tensor, int, int], None]
"""What a walk calls with stage, features, first and end; see :func:`walk`."""


def tree_order(archs: Sequence[Arch]) -> list[Arch]:
    """Distinct networks in the order of the walk: those that share a prefix lie side by side."""
    return sorted(set(archs), key=_path)


def prefix(arch: Arch, stage: int) -> tuple[int, ...]:
    """What decides the output of ``stage``, 0 to 3: networks that agree on it compute the same features there."""
    return _path(arch)[: 2 * stage + 3]


class Stages(Protocol[X]):
    """What is walked: a supernet, or something that runs or counts its parts in another way."""

    def stem(self, x: X, width: int) -> X:
        """See :meth:`DynamicResNet.stem`."""
        ...

    def stage(self, index: int, x: X, width: int, depth: int, start: int = 0) -> X:
        """See :meth:`DynamicResNet.stage`."""
        ...


def walk(
    supernet: Stages[X], images: X, archs: Sequence[Arch], last_stage: int, visit: Callable[[int, X, int, int], None]
) -> None:
    """Compute every distinct stage output of the networks once, in an order that depends on the networks alone.

    Args:
        supernet: the supernet, whose mode decides how batch norms normalise.
        images: (N, 3, H, W).
        archs: the networks as :func:`tree_order` sorts them.
        last_stage: stages after this one, 0 to 3, are not computed.
        visit: called as ``visit(stage, features, first, end)`` for every prefix that ends with ``stage``;
            ``archs[first:end]`` are the networks that have it.
    """
    paths = np.array([_path(arch) for arch in archs])
    for stem, first, end in _runs(paths[:, 0], 0, len(archs)):
        _descend(supernet, 0, supernet.stem(images, stem), paths, first, end, last_stage, visit)


# Not a function within walk: one that names itself keeps feature maps alive until the next garbage collection.
def _descend(
    supernet: Stages[X],
    stage: int,
    x: X,
    paths: np.ndarray,
    first: int,
    end: int,
    last_stage: int,
    visit: Callable[[int, X, int, int], None],
) -> None:
    for width, a, b in _runs(paths[:, 2 * stage + 1], first, end):
        y, done = x, 0
        for depth, c, d in _runs(paths[:, 2 * stage + 2], a, b):
            y, done = supernet.stage(stage, y, width, depth, start=done), depth
            visit(stage, y, c, d)
            if stage < last_stage:
                _descend(supernet, stage + 1, y, paths, c, d, last_stage, visit)


def tree_flops(
    archs: Sequence[Arch],
    input_size: tuple[int, int] = (224, 224),
    last_stage: int = STAGES - 1,
    strides: Sequence[int] = STRIDES,
) -> int:
    """Multiply-accumulates of the convolutions of one walk, for one image.

    Args:
        archs: the networks as :func:`tree_order` sorts them.
        input_size: height and width of the image in pixels.
        last_stage: stages after this one, 0 to 3, are not computed.
        strides: strides of the four stages.
    """
    counter = _Counter(strides)
    walk(counter, _Map(*input_size, 3), archs, last_stage, lambda *_: None)
    return counter.total


@dataclass(frozen=True)
class _Map:
    """Size of a feature map."""

    height: int
    width: int
    channels: int

    def after(self, stride: int, channels: int) -> _Map:
        return _Map((self.height - 1) // stride + 1, (self.width - 1) // stride + 1, channels)

    def convolution(self, kernel: int, channels: int) -> int:
        """Multiply-accumulates that put out this map from one with ``channels``."""
        return self.height * self.width * kernel * kernel * channels * self.channels


class _Counter:
    """Stages that count multiply-accumulates instead of computing."""

    def __init__(self, strides: Sequence[int]) -> None:
        self.strides = strides
        self.total = 0

    def stem(self, x: _Map, width: int) -> _Map:
        out = x.after(2, width)
        self.total += out.convolution(7, x.channels)
        return out.after(2, width)

    def stage(self, index: int, x: _Map, width: int, depth: int, start: int = 0) -> _Map:
        for block in range(start, depth):
            reduced = x.after(1, width)
            middle = x.after(self.strides[index] if block == 0 else 1, width)
            out = middle.after(1, EXPANSION * width)
            self.total += reduced.convolution(1, x.channels) + middle.convolution(3, width) + out.convolution(1, width)
            if block == 0:
                self.total += out.convolution(1, x.channels)
            x = out
        return x


def _path(arch: Arch) -> tuple[int, ...]:
    """The choices in the order in which they branch: the stem, then each stage's width and depth."""
    return (arch.stem, *(value for stage in range(STAGES) for value in (arch.width[stage], arch.depth[stage])))


def _runs(values: np.ndarray, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Runs of equal values in ``values[first:end]`` as (value, first, end)."""
    breaks = first + 1 + np.flatnonzero(np.diff(values[first:end]))
    bounds = [first, *breaks.tolist(), end]
    for a, b in itertools.pairwise(bounds):
        yield int(values[a]), a, b
