"""How many processes read images if nobody says."""

from __future__ import annotations

import os

MOST = 16
"""More seldom read faster."""


def spare_cores() -> int:
    """The cores of this machine but one, at least 1 and at most :data:`MOST`."""
    return min(MOST, max(1, (os.cpu_count() or 1) - 1))
