"""Making a supernet small enough to come with a package."""

from __future__ import annotations

import os
from pathlib import Path

from data_plugin.supernet.checkpoint import load_supernet, save_supernet
from data_plugin.supernet.named_supernet import WEIGHTS


def pack(source: str | os.PathLike[str], folder: Path) -> Path:
    """Write a trained supernet in about a quarter of the space: one branch for both, in half precision.

    At the end of a training, when the learning rate has fallen to nothing, the two branches nearly coincide. What
    becomes of them is said in :func:`~data_plugin.supernet.checkpoint.save_supernet`.

    Args:
        source: the file that pre-training wrote.
        folder: where it shall lie.

    Returns:
        The packed file.

    Raises:
        UserError: if ``source`` cannot be read, or half precision cannot hold one of its weights.
    """
    path = folder / WEIGHTS
    save_supernet(path, load_supernet(source), half=True, one_branch=True)
    return path
