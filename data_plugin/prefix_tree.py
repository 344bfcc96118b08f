"""Running many networks of a supernet at the cost of their distinct prefixes.

Two networks that agree on the stem and the first stages compute the same features there, and a deep stage passes
through the outputs of the shallower ones. So the networks are walked as a tree, depth first: every prefix is
computed once, and one activation a level is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from data_plugin.arch import STAGES, Arch

Visit = Callable[[int, Tensor, int, int], None]


def tree_order(archs: Sequence[Arch]) -> list[Arch]:
    """Distinct networks in the order of the walk: those that share a prefix lie side by side."""
    return sorted(set(archs), key=_path)


class Stages(Protocol):
    """What is walked: a supernet, or something that runs its parts in another way."""

    def stem(self, x: Tensor, width: int) -> Tensor:
        """See :meth:`DynamicResNet.stem`."""
        ...

    def stage(self, index: int, x: Tensor, width: int, depth: int, start: int = 0) -> Tensor:
        """See :meth:`DynamicResNet.stage`."""
        ...


def walk(supernet: Stages, images: Tensor, archs: Sequence[Arch], last_stage: int, visit: Visit) -> None:
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

    def descend(stage: int, x: Tensor, first: int, end: int) -> None:
        for width, a, b in _runs(paths[:, 2 * stage + 1], first, end):
            y, done = x, 0
            for depth, c, d in _runs(paths[:, 2 * stage + 2], a, b):
                y, done = supernet.stage(stage, y, width, depth, start=done), depth
                visit(stage, y, c, d)
                if stage < last_stage:
                    descend(stage + 1, y, c, d)

    for stem, first, end in _runs(paths[:, 0], 0, len(archs)):
        descend(0, supernet.stem(images, stem), first, end)


def _path(arch: Arch) -> tuple[int, ...]:
    """The choices in the order in which they branch: the stem, then each stage's width and depth."""
    return (arch.stem, *(value for stage in range(STAGES) for value in (arch.width[stage], arch.depth[stage])))


def _runs(values: np.ndarray, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Runs of equal values in ``values[first:end]`` as (value, first, end)."""
    breaks = first + 1 + np.flatnonzero(np.diff(values[first:end]))
    bounds = [first, *breaks.tolist(), end]
    for a, b in itertools.pairwise(bounds):
        yield int(values[a]), a, b
