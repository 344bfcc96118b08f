"""What a search asks of a strategy, and what a strategy asks of the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from data_plugin.search.result import SearchResult
from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace

Within = Callable[[np.ndarray], np.ndarray]
"""Takes a table of networks (N, 9), as :attr:`SearchSpace.table` has it, and returns the mask (N,) of those within a
budget."""

Candidates = Mapping[str, Sequence[Arch]]
"""By the name of a budget, networks within it."""


class Measures(Protocol):
    """What a strategy measures networks with; see :class:`data_plugin.search.searcher.Measurement`."""

    count: int
    """Number of batches of images."""

    def measure(self, archs: Sequence[Arch], batches: Sequence[int] | None = None) -> SearchResult:
        """Divergences of networks on some batches, all if None."""
        ...

    def skip(self, networks: float) -> None:
        """Tell the progress that so many networks, times batches, need not be measured."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a strategy has found.

    Args:
        result: divergences of networks that saw all images.
        candidates: the networks of every budget among them.
        dropped: other networks, with the number of images that they saw and their mean divergence on these.
    """

    result: SearchResult
    candidates: Candidates
    dropped: Mapping[Arch, tuple[int, float]] = field(default_factory=dict)


class Strategy(ABC):
    """How a search finds its candidates, and how many images it spends on each: a frozen dataclass.

    Left as it is, a strategy measures the candidates that it knows beforehand on all images.

    Attributes:
        comes_back: whether it measures several sets of networks on the same images.
        random: whether its candidates are a random draw, or all, of the networks within each budget.
    """

    comes_back: ClassVar[bool] = False
    random: ClassVar[bool] = False

    @property
    @abstractmethod
    def chosen(self) -> str:
        """How the candidates came about, for a report, such as "100 drawn per budget"."""

    @abstractmethod
    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """The networks that are compared, where they are known before anything is measured.

        Args:
            space: the search space.
            budgets: the budgets by name.
            seed: seed of all draws.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Its name and settings, JSON values."""

    def most(self, candidates: Candidates, budgets: int) -> int:
        """How many networks are compared at the most, of these candidates within so many budgets."""
        return len(distinct(candidates))

    def search(
        self,
        measures: Measures,
        candidates: Candidates,
        space: SearchSpace,
        budgets: Mapping[str, Within],
        seed: int,
    ) -> Outcome:
        """Measure networks.

        Args:
            measures: measures them.
            candidates: what :meth:`candidates` gave.
            space: the search space.
            budgets: the budgets by name.
            seed: seed of all draws.
        """
        return Outcome(measures.measure(distinct(candidates)), candidates)


def distinct(candidates: Candidates) -> list[Arch]:
    """All candidates, each once, in order."""
    return sorted({arch for archs in candidates.values() for arch in archs})
