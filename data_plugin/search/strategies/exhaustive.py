"""Comparing every network within the budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_plugin.search.strategies.strategy import Candidates, Measures, Outcome, Within, distinct
from data_plugin.space.search_space import SearchSpace


@dataclass(frozen=True)
class Exhaustive:
    """All networks within the budgets."""

    comes_back = False
    chosen = "all within the budgets"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """See :class:`Strategy`."""
        return {name: space.fitting(within) for name, within in budgets.items()}

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
        return {"name": "exhaustive"}
