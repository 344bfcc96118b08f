"""Budgets: which networks of a space a search may choose from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_plugin import cost
from data_plugin.errors import UserError
from data_plugin.space import SearchSpace

GIGA = 10**9


@dataclass(frozen=True)
class FlopsGroup:
    """The networks between two costs, such as the paper's 3G~4G group (DATA, section 4.1).

    Args:
        low: least multiply-accumulates at 224 x 224, in G.
        high: bound in G that the cost stays below.

    Raises:
        UserError: if the bounds are not 0 <= low < high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UserError(
                f"the group {self} has no room; expected two bounds in GFLOPs, the lower first, such as 3-4"
            )

    @classmethod
    def parse(cls, text: str) -> FlopsGroup:
        """A group from ``3-4`` or ``0.1-0.15``.

        Raises:
            UserError: if the text has another form.
        """
        try:
            low, high = (float(part) for part in text.split("-"))
        except ValueError as error:
            raise UserError(f"{text!r} is not a group; expected two bounds in GFLOPs, such as 3-4") from error
        return cls(low, high)

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"

    def fits(self, table: np.ndarray) -> np.ndarray:
        """Mask of shape (N,) of the rows of a table of networks (N, 9) that lie in the group."""
        flops = cost.flops(table)
        return (flops >= self.low * GIGA) & (flops < self.high * GIGA)

    def require_any(self, space: SearchSpace) -> None:
        """Check that the group holds a network of the space.

        Raises:
            UserError: if it holds none; the message gives the space's range.
        """
        if not self.fits(space.table).any():
            flops = cost.flops(space.table) / GIGA
            raise UserError(
                f"no network of this space lies in the group {self} GFLOPs; "
                f"its {len(space)} networks cost {flops.min():.3g} to {flops.max():.3g} GFLOPs at 224x224"
            )
