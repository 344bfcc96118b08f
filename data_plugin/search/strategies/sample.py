"""Comparing networks that are drawn at random within every budget, as DATA does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from data_plugin.search.strategies.strategy import Candidates, Strategy, Within
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Sample(Strategy):
    """Networks drawn per budget.

    Args:
        count: how many; 100 in DATA, section 4.1. Where a budget has fewer, all of them.

    Raises:
        UserError: if it is below 1.
    """

    random: ClassVar[bool] = True

    count: int = 100

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} networks were asked for; expected at least 1")

    @property
    def chosen(self) -> str:
        """See :attr:`Strategy.chosen`."""
        return f"{self.count} drawn per budget"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """See :meth:`Strategy.candidates`."""
        return {name: space.sample(self.count, seed, within) for name, within in budgets.items()}

    def to_json(self) -> dict[str, Any]:
        """See :meth:`Strategy.to_json`."""
        return {"name": "sample", "count": self.count}
