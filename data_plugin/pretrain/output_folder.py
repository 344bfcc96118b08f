"""The output folder of a pre-training: what is in it, and whether a training may begin or go on there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_plugin.pretrain.callbacks import RUN
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors

SUPERNET = "supernet.safetensors"
"""The file in the output folder that holds the trained supernet."""

CHECKPOINT = Path("checkpoints", "last.ckpt")
"""The file in the output folder that a stopped training goes on from."""

LOGS = "logs"
"""The folder in the output folder for CSV and TensorBoard logs."""

TEACHER = "teacher"
"""The folder in the output folder for what a frozen teacher said of the images."""


def make_room(out: Path, overwrite: bool) -> None:
    """Ready an output folder for a training from the start.

    Args:
        out: the folder.
        overwrite: whether a supernet or an unfinished training in it may be replaced.

    Raises:
        UserError: if it is a file, or holds one of these and may not.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder, or a name that is free")
    if not overwrite:
        for path, what in ((out / SUPERNET, "a supernet"), (out / CHECKPOINT, "an unfinished training")):
            if path.exists():
                raise UserError(f"{out} holds {what} already; give another folder, or pass --resume or --overwrite")
    shutil.rmtree((out / CHECKPOINT).parent, ignore_errors=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)
    shutil.rmtree(out / TEACHER, ignore_errors=True)


def resumed_step(checkpoint: Path, run: Mapping[str, Any]) -> int:
    """The step after which a training goes on.

    Args:
        checkpoint: the file that it goes on from.
        run: the settings that decide its result, JSON values.

    Raises:
        UserError: if there is no such file, it is of something else, or it was trained with other settings.
    """
    if not checkpoint.is_file():
        raise UserError(f"there is nothing to resume: {checkpoint} does not exist; leave out --resume")
    contents, _ = read_tensors(checkpoint)
    if RUN not in contents:
        raise UserError(f"{checkpoint} is no checkpoint of a pre-training here; leave out --resume")
    for unfinished in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):
        unfinished.unlink(missing_ok=True)  # of a process that was killed while it wrote
    before, now = _flat(contents[RUN]), _flat(run)
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise UserError(
                f"{checkpoint} was trained with {name} {before.get(name)}, not {now.get(name)}; "
                "resume with the same settings, or start again with --overwrite"
            )
    return int(contents["global_step"])


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}.{key}".lstrip(".")).items()
    }
