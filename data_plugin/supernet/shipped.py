"""The supernet that comes with the package, in half precision, beside a card that says what it is."""

from __future__ import annotations

from pathlib import Path

from data_plugin.supernet.checkpoint import load_supernet, save_supernet
from data_plugin.utils.errors import UserError

SHIPPED = "shipped"
"""What a command line calls it."""

FOLDER = Path(__file__).with_name("shipped_micro")
"""Where it lies, with its card."""

_WEIGHTS = "supernet.safetensors"


def shipped_supernet(folder: Path = FOLDER) -> Path:
    """The file of the shipped supernet.

    Args:
        folder: where it lies.

    Raises:
        UserError: if it is missing.
    """
    path = folder / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} is missing, the supernet that comes with the package; install data_plugin again")
    return path


def pack(source: Path, folder: Path = FOLDER) -> Path:
    """Write a supernet as the shipped one, every weight in half precision.

    Args:
        source: the file that pre-training wrote.
        folder: where it shall lie.

    Returns:
        The packed file.

    Raises:
        UserError: if ``source`` cannot be read, or half precision cannot hold one of its weights.
    """
    path = folder / _WEIGHTS
    save_supernet(path, load_supernet(source), half=True)
    return path
