"""Making a supernet small enough to come with a package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from torch.nn.utils import parameters_to_vector

from data_plugin.supernet.checkpoint import load_supernet, save_supernet
from data_plugin.supernet.named_supernet import WEIGHTS


class Packed(NamedTuple):
    """A supernet that was packed.

    Args:
        path: its file.
        apart: how far the branches were apart, as a part of the length of the key branch's weights.
    """

    path: Path
    apart: float


def pack(source: str | os.PathLike[str], folder: Path) -> Packed:
    """Write a trained supernet in about a quarter of the space: one branch for both, in half precision.

    At the end of a training, when the learning rate has fallen to nothing, the two branches nearly coincide. What
    becomes of them is said in :func:`~data_plugin.supernet.checkpoint.save_supernet`.

    Args:
        source: the file that pre-training wrote.
        folder: where it shall lie.

    Raises:
        UserError: if ``source`` cannot be read, or half precision cannot hold one of its weights.
    """
    path, supernet = folder / WEIGHTS, load_supernet(source)
    save_supernet(path, supernet, half=True, one_branch=True)
    query, key = (parameters_to_vector(branch.parameters()).detach() for branch in (supernet.query, supernet.key))
    return Packed(path, ((query - key).norm() / key.norm()).item())
