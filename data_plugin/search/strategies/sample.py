"""Comparing networks that are drawn at random within every budget, as DATA does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_plugin.search.strategies.strategy import Candidates, Measures, Outcome, Within, distinct
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Sample:
    """Networks drawn per budget.

    Args:
        count: how many; 100 in DATA, section 4.1. Where a budget has fewer, all of them.

    Raises:
        UserError: if it is below 1.
    """

    count: int = 100
    comes_back = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} networks were asked for; expected at least 1")

    @property
    def chosen(self) -> str:
        """See :class:`Strategy`."""
        return f"{self.count} drawn per budget"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """See :class:`Strategy`."""
        return {name: space.sample(self.count, seed, within) for name, within in budgets.items()}

    def most(self, candidates: Candidates, budgets: int) -> int:
        """See :class:`Strategy`."""
        return len(distinct(candidates))

    def search(
        self,
        measures: Measures,
        candidates: Candidates,
        space: SearchSpace,
        budgets: Mapping[str, Within],
        seed: int,
    ) -> Outcome:
        """See :class:`Strategy`."""
        return Outcome(measures.measure(distinct(candidates)), candidates)

    def to_json(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {"name": "sample", "count": self.count}
