"""What one would take of a budget without a search, to see beside the winner what the search has gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_plugin.search.result import SearchResult
from data_plugin.search.strategies.strategy import Measures, Within
from data_plugin.space import cost
from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.search_space import SearchSpace

RESNET50, MOST_FLOPS, MOST_PARAMS = "ResNet-50's shape", "most FLOPs", "most parameters"
"""What the rivals are called."""


@dataclass(frozen=True)
class Rival:
    """A network of a budget that needed no search.

    Args:
        budget: the name of the budget.
        name: what it is, such as :data:`RESNET50`.
        arch: the network.
        flops: its multiply-accumulates at 224 x 224.
        params: its parameters.
        score: its mean divergence from the teacher, on the images of the search.
    """

    budget: str
    name: str
    arch: Arch
    flops: int
    params: int
    score: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, the architecture as its canonical string."""
        return {**vars(self), "arch": str(self.arch)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rival:
        """What :meth:`to_json` gave."""
        return cls(**{**value, "arch": Arch.parse(value["arch"])})


class Beside(Measures):
    """Measures networks for a strategy, and whenever it looks at new images the rivals with them.

    Args:
        measures: what measures.
        rivals: the rivals' architectures, each once.
    """

    def __init__(self, measures: Measures, rivals: Sequence[Arch]) -> None:
        self.count = measures.count
        self._measures = measures
        self._rivals = rivals
        self._seen: set[int] = set()

    def measure(self, archs: Sequence[Arch], batches: Sequence[int] | None = None) -> SearchResult:
        """See :meth:`Measures.measure`; what is returned is of ``archs`` alone."""
        wanted = range(self.count) if batches is None else batches
        new = set(wanted) - self._seen
        if new:
            others = [arch for arch in self._rivals if arch not in set(archs)]
            self._measures.measure([*archs, *others], wanted)
            self.skip((len(self._rivals) - len(others)) * len(new))
            self._seen |= new
        return self._measures.measure(archs, wanted)

    def skip(self, networks: float) -> None:
        """See :meth:`Measures.skip`."""
        self._measures.skip(networks)


def rivals_of(space: SearchSpace, within: Within) -> dict[str, Arch]:
    """The rivals of a budget, by what they are called; none where no network is within it.

    Args:
        space: the search space.
        within: the mask of the networks within the budget.
    """
    table = space.table[within(space.table)]
    if not len(table):
        return {}
    flops, params = cost.flops(table), cost.params(table)
    found = {
        RESNET50: np.lexsort((-flops, unlike_resnet50(table)))[0],
        MOST_FLOPS: np.lexsort((-params, -flops))[0],
        MOST_PARAMS: np.lexsort((-flops, -params))[0],
    }
    return {name: Arch.from_row(table[index].tolist()) for name, index in found.items()}


def unlike_resnet50(table: np.ndarray) -> np.ndarray:
    """How far the proportions of networks are from ResNet-50's, (N,); 0 for a ResNet-50 that is scaled as a whole.

    It is the variance, over the stem and the stages, of the logarithm by which widths are scaled, plus that of depths.

    Args:
        table: networks (N, 9), as :attr:`SearchSpace.table` has it.
    """
    scale = np.log(table / np.array(Arch.resnet50().row))
    return np.round(scale[:, : 1 + STAGES].var(axis=1) + scale[:, 1 + STAGES :].var(axis=1), 12)
