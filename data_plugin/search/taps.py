"""Taps: the features that a task's model reads, by which networks are compared (DATA, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from data_plugin.space.arch import STAGE_TAPS
from data_plugin.utils.errors import UserError

EMBEDDING = "z"
"""Name of what the pre-training's head makes of C5, which DATA compares for classification."""


def stage_of(tap: str) -> int:
    """The stage, 0 to 3, that decides a tap."""
    return STAGE_TAPS.index("C5" if tap == EMBEDDING else tap)


def parse_taps(text: str) -> tuple[str, ...]:
    """Taps from a comma-separated list such as ``C4,C5``, shallow to deep.

    Raises:
        UserError: if a name is unknown or none is given.
    """
    return check_taps([name.strip() for name in text.split(",")])


def check_taps(names: Sequence[str]) -> tuple[str, ...]:
    """The given taps once each, shallow to deep.

    Raises:
        UserError: if a name is unknown or none is given, or ``z`` is given with others.
    """
    unknown = [name for name in names if name not in (*STAGE_TAPS, EMBEDDING)]
    if unknown or not names:
        expected = f"{EMBEDDING} or some of {', '.join(STAGE_TAPS)}"
        raise UserError(f"{', '.join(unknown) or 'nothing'} is no tap; expected {expected}")
    if EMBEDDING in names:
        if len(set(names)) > 1:
            raise UserError(f"{EMBEDDING} and feature maps differ on scales of their own; search by {EMBEDDING} alone")
        return (EMBEDDING,)
    return tuple(tap for tap in STAGE_TAPS if tap in names)
