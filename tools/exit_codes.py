"""How a tool ends when its input is wrong."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from data_plugin.utils.errors import UserError

Main = Callable[[Sequence[str] | None], int]


def user_errors_exit_2(main: Main) -> Callable[..., int]:
    """Make a tool's ``main`` print a :class:`UserError` alone, without a traceback, and return exit code 2."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return wrapped
