"""Writing files, and folders of them, that are either whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    Args:
        path: the file to make or replace; its folder is made where missing.
        write: is called with the temporary path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that their owner alone can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole_folder(out: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` make a folder beside ``out``, then put it in place of whatever is there.

    Args:
        out: the folder to make or replace.
        fill: is called with the path of a folder that it may have to make.
    """
    out = out.resolve()
    partial, replaced = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.replaced")
    for folder in (partial, replaced):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        fill(partial)
        # A folder that is deleted file by file would, if killed, leave a part of one that looks like a whole.
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
