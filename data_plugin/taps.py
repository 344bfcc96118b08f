"""Taps: the features that a task's model reads, by which networks are compared (DATA, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from data_plugin.errors import UserError

STAGE_TAPS = ("C2", "C3", "C4", "C5")
"""Names of the feature maps that stages 1 to 4 put out."""


def parse_taps(text: str) -> tuple[str, ...]:
    """Taps from a comma-separated list such as ``C4,C5``, shallow to deep.

    Raises:
        UserError: if a name is unknown or none is given.
    """
    return check_taps([name.strip() for name in text.split(",")])


def check_taps(names: Sequence[str]) -> tuple[str, ...]:
    """The given taps once each, shallow to deep.

    Raises:
        UserError: if a name is unknown or none is given.
    """
    unknown = [name for name in names if name not in STAGE_TAPS]
    if unknown or not names:
        raise UserError(f"{', '.join(unknown) or 'nothing'} is no tap; expected some of {', '.join(STAGE_TAPS)}")
    return tuple(tap for tap in STAGE_TAPS if tap in names)
