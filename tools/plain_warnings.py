"""How a tool prints warnings: as a line for its user, who has not asked where in the code it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_warnings() -> Iterator[None]:
    """For the time of a ``with``, print warnings as ``warning: MESSAGE`` on one line, the same one once.

    A config is opened several times, and what its data are is said each time. What filters ask for comes first.
    """
    before = warnings.formatwarning
    warnings.formatwarning = _plain
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("once", append=True)
            yield
    finally:
        warnings.formatwarning = before


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
