"""Budgets: which networks of a space a search may choose from, by what they cost."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

Costs = Mapping[str, Callable[[np.ndarray], np.ndarray]]
"""Per quantity, what gives the cost (N,) of every network of a table (N, 9)."""

QUANTITIES = {
    "flops": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "params": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "latency": {"ms": 1e-3, "s": 1.0, "us": 1e-6},
    "memory": {"B": 1.0, "KB": 2.0**10, "MB": 2.0**20, "GB": 2.0**30},
}
"""Quantities that a budget can bound, with their units; costs are in multiply-accumulates, numbers, s and bytes."""

_OPERATORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
QUANTILES = 5
"""Groups of a space that has none of the paper's."""

_LIMIT = re.compile(r"\s*([a-z]+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([A-Za-z]*)\s*")
_EXAMPLE = "'flops<=4.0G and params<=30M'"


@dataclass(frozen=True)
class Limit:
    """One bound of a budget.

    Args:
        quantity: a key of :data:`QUANTITIES`.
        relation: ``<=``, ``<``, ``>=`` or ``>``.
        value: the bound, in the quantity's base unit.
    """

    quantity: str
    relation: str
    value: float

    def holds(self, costs: np.ndarray) -> np.ndarray:
        """Mask of the costs (N,) that keep the bound."""
        return _OPERATORS[self.relation](costs, self.value)


@dataclass(frozen=True)
class Budget:
    """All bounds that a network has to keep.

    Args:
        name: what the user called the budget, without needless spaces.
        limits: the bounds, at least one.
    """

    name: str
    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget from an expression such as ``flops<=4.0G and params<=30M``.

        Raises:
            UserError: if the text has another form, or a quantity or unit is unknown.
        """
        parts = re.split(r"\band\b", text)
        name = " and ".join(re.sub(r"\s+", "", part) for part in parts)
        return cls(name, tuple(_limit(part, text) for part in parts))

    @classmethod
    def group(cls, text: str) -> Budget:
        """The networks between two costs in GFLOPs, such as the paper's 3G~4G group (DATA, section 4.1), as ``3-4``.

        Raises:
            UserError: if the text has another form or the bounds are not 0 <= low < high.
        """
        try:
            low, high = (float(part) for part in text.split("-"))
        except ValueError as error:
            raise UserError(f"{text!r} is not a group; expected two bounds in GFLOPs, such as 3-4") from error
        if not 0 <= low < high:
            raise UserError(
                f"the group {text} has no room; expected two bounds in GFLOPs, the lower first, such as 3-4"
            )
        return cls(text, (Limit("flops", ">=", low * 1e9), Limit("flops", "<", high * 1e9)))

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities that are bounded, once each."""
        return tuple(dict.fromkeys(limit.quantity for limit in self.limits))

    @property
    def folder(self) -> str:
        """The name in a form that is safe as a folder's."""
        words = self.name.replace("<=", "-max-").replace(">=", "-min-").replace("<", "-below-").replace(">", "-above-")
        return re.sub(r"[^A-Za-z0-9.+-]+", "_", words)

    def fits(self, table: np.ndarray, costs: Costs) -> np.ndarray:
        """Mask (N,) of the networks of a table (N, 9), as :attr:`SearchSpace.table` has it, that keep every bound."""
        mask = np.ones(len(table), dtype=bool)
        for quantity in self.quantities:
            values = costs[quantity](table)
            for limit in self.limits:
                if limit.quantity == quantity:
                    mask &= limit.holds(values)
        return mask

    def require_any(self, space: SearchSpace, costs: Costs) -> None:
        """Check that a network of the space keeps the budget.

        Raises:
            UserError: if none does; the message gives what the space's networks cost.
        """
        if not self.fits(space.table, costs).any():
            ranges = "; ".join(_range(quantity, costs[quantity](space.table)) for quantity in self.quantities)
            raise UserError(f"no network of this space is within {self.name}: its {len(space)} networks have {ranges}")


def all_groups(space: SearchSpace, costs: Costs) -> list[Budget]:
    """The paper's groups at intervals of 1 GFLOPs from 1 to 8 that hold a network of the space (DATA, section 4.1).

    A space that has none of them is cut into :data:`QUANTILES` groups with about as many networks each.
    """
    groups = [Budget.group(f"{low}-{low + 1}") for low in range(1, 8)]
    found = [group for group in groups if group.fits(space.table, costs).any()]
    return found or _quantile_groups(costs["flops"](space.table) / 1e9)


def _quantile_groups(gflops: np.ndarray) -> list[Budget]:
    """Groups between quantiles of the networks' costs (N,), rounded to where they can be read."""
    bounds = np.quantile(gflops, np.linspace(0, 1, QUANTILES + 1))
    step = 10.0 ** math.floor(math.log10(bounds[-1] / 30))
    inner = [round(bound / step) for bound in bounds[1:-1]]
    edges = sorted({math.floor(bounds[0] / step), *inner, math.floor(bounds[-1] / step) + 1})
    digits = max(0, -round(math.log10(step)))
    return [
        Budget.group(f"{low * step:.{digits}f}-{high * step:.{digits}f}") for low, high in itertools.pairwise(edges)
    ]


def _limit(part: str, text: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise UserError(f"{text!r} is not a budget; expected bounds joined by 'and', such as {_EXAMPLE}")
    quantity, relation, number, unit = match.groups()
    if quantity not in QUANTITIES:
        raise UserError(f"{quantity!r} in {text!r} cannot be bounded; expected one of {', '.join(QUANTITIES)}")
    units = QUANTITIES[quantity]
    if unit not in units:
        known = ", ".join(name or "none" for name in units)
        raise UserError(f"{number}{unit} in {text!r} has no known unit; {quantity} is given in {known}")
    return Limit(quantity, relation, float(number) * units[unit])


def _range(quantity: str, costs: np.ndarray) -> str:
    units = QUANTITIES[quantity]
    unit, scale = max(((u, s) for u, s in units.items() if s <= costs.max()), key=lambda pair: pair[1])
    return f"{quantity} {costs.min() / scale:.3g}{unit} to {costs.max() / scale:.3g}{unit}"
