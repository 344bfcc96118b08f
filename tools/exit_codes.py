"""How a tool ends when its input is wrong."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from data_plugin.tools.plain_warnings import plain_warnings
from data_plugin.utils.errors import UserError

Main = Callable[[Sequence[str] | None], int]


def user_errors_exit_2(main: Main) -> Callable[..., int]:
    """Make a tool's ``main`` print a :class:`UserError` alone, without a traceback, and return exit code 2.

    What it warns of is printed as plainly.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            with plain_warnings():
                return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return wrapped
