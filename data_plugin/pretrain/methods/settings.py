"""Hyper-parameters of a self-supervised method, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a method: a frozen dataclass, every field with a default, as TOML can write them."""

    def require_batch_size(self, batch_size: int) -> None:
        """Check that the method can work with batches of this size.

        Raises:
            UserError: if it cannot.
        """


def require_whole_batches(queue: int, batch_size: int) -> None:
    """Check that a queue holds whole batches.

    Raises:
        UserError: if it does not.
    """
    if queue % batch_size:
        raise UserError(
            f"the queue holds {queue} keys, which is no multiple of the batch size {batch_size}; "
            "change one of them, so that every step replaces whole batches"
        )


def require_positive(settings: Any, *names: str) -> None:
    """Check that numbers are above 0.

    Raises:
        UserError: naming the first that is not.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise UserError(f"{name.replace('_', ' ')} is {getattr(settings, name)}; expected a number above 0")
