"""Keeping what others print to ourselves."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def silence(*loggers: logging.Logger) -> Iterator[None]:
    """For the time of a ``with``, let nothing be printed or logged.

    Args:
        loggers: those in use that are not of ``logging.getLogger``, which Python's own switch does not reach.
    """
    before = logging.root.manager.disable
    logging.disable()
    for logger in loggers:
        logger.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        for logger in loggers:
            logger.disabled = False
