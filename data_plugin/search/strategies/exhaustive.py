"""Comparing every network within the budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from data_plugin.search.strategies.strategy import Candidates, Strategy, Within
from data_plugin.space.search_space import SearchSpace


@dataclass(frozen=True)
class Exhaustive(Strategy):
    """All networks within the budgets."""

    random: ClassVar[bool] = True

    @property
    def chosen(self) -> str:
        """See :attr:`Strategy.chosen`."""
        return "all within the budgets"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """See :meth:`Strategy.candidates`."""
        return {name: space.fitting(within) for name, within in budgets.items()}

    def to_json(self) -> dict[str, Any]:
        """See :meth:`Strategy.to_json`."""
        return {"name": "exhaustive"}
