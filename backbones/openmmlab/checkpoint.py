"""Reading the checkpoints that MMEngine writes, without running code that they may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from data_plugin.utils.tensor_files import read_tensors


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The weights in a checkpoint of MMEngine, or in a file that holds nothing else.

    MMEngine adds the history of scalars, in numpy arrays, which is let in; any other object is refused.

    Raises:
        UserError: if the file is missing, truncated, or holds other objects.
    """
    rebuilds: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    types: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.int64))]
    history = [HistoryBuffer, (_history_method, "builtins.getattr")]
    with torch.serialization.safe_globals([*rebuilds, *types, *history]):
        contents, _ = read_tensors(path)
    return contents.get("state_dict", contents)


def _history_method(owner: Any, name: str) -> Any:
    """The one use of ``getattr`` in MMEngine's checkpoints; any other could reach any code."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"getattr of {name!r}")
    return getattr(owner, name)
