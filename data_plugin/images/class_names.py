"""Names of classes as users give them, and in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from data_plugin.utils.errors import UserError

MOST_LISTED = 30
"""Classes that a message lists at most."""


def check_names(named: Sequence[str]) -> None:
    """Check that classes have names, each once.

    Raises:
        UserError: if there is none, or one is empty or given twice.
    """
    if not named or not all(name.strip() for name in named):
        raise UserError(f"the classes {','.join(named)!r} have an empty name; expected names such as kangaroo,raccoon")
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise UserError(f"the classes {','.join(named)} name {twice[0]!r} twice; expected each once")


def some(names: Iterable[str]) -> str:
    """The first :data:`MOST_LISTED` names, and how many more there are."""
    listed = list(names)
    more = len(listed) - MOST_LISTED
    return ", ".join(listed[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
