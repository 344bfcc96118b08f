"""How a tool prints warnings: as a line for its user, who has not asked where in the code it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_warnings() -> Iterator[None]:
    """For the time of a ``with``, print warnings as ``warning: MESSAGE`` on one line, and the same one once.

    A config is opened several times, and each time says what its data are. Python's own filter for that forgets what
    was said as soon as anybody changes a filter.
    """
    before = warnings.formatwarning
    said = set()

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        text = f"warning: {' '.join(str(message).split())}\n"
        if text in said:
            return ""
        said.add(text)
        return text

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before
