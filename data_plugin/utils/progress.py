"""Showing how far a long computation is: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_plugin.utils.ranks import rank

LOGGED_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def progress_over(total: int, what: str) -> Iterator[Callable[[float], None]]:
    """Show progress for the time of a ``with``, by the first process of several alone; yields what moves it on.

    Args:
        total: how many there are.
        what: what is counted, such as ``images``.
    """
    if rank() != 0:
        yield lambda count: None
        return
    console = Console()
    if not console.is_terminal:
        yield _Lines(total, what, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


class _Lines:
    def __init__(self, total: int, what: str, console: Console) -> None:
        self.total, self.what, self.console = total, what, console
        self.done = 0.0
        self.start = self.printed = time.monotonic()

    def __call__(self, count: float) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.printed >= LOGGED_EVERY and self.done:
            self.printed = now
            spent = now - self.start
            left = spent * (self.total / self.done - 1)
            self.console.print(
                f"{self.done:.0f} of {self.total} {self.what}, {_clock(spent)} spent, about {_clock(left)} left",
                highlight=False,
                soft_wrap=True,
            )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
