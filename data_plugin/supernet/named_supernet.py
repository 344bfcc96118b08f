"""The supernet that a user names: by the path of its file, or as the one that comes with the package."""

from __future__ import annotations

import os
from pathlib import Path

from data_plugin.utils.errors import UserError

SHIPPED = "shipped"
"""What the supernet that comes with the package is called."""

FOLDER = Path(__file__).with_name("shipped")
"""Where it lies, with a card that says what it is."""

WEIGHTS = "supernet.safetensors"
"""Its file in there."""


def named_supernet(name: str | os.PathLike[str]) -> Path:
    """The file of a supernet; every function that takes a supernet's file asks this one where it is.

    Args:
        name: a path, or the text "shipped" for the one that comes with the package, whatever lies in the working
            directory. A file of that name is "./shipped", or a :class:`~pathlib.Path`, which is a path always.

    Raises:
        UserError: if the shipped one is missing; whether any other is there, its reader tells.
    """
    return shipped_supernet() if name == SHIPPED else Path(name)


def is_shipped(path: Path) -> bool:
    """Whether a file is that of the supernet that comes with the package."""
    return path.parent == FOLDER


def shipped_supernet() -> Path:
    """The file of the supernet that comes with the package.

    Raises:
        UserError: if it is missing.
    """
    path = FOLDER / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} is missing, the supernet that comes with the package; install data_plugin again")
    return path
