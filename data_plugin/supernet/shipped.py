"""The supernet that comes with the package, in half precision, beside a card that says what it is."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.provenance import file_hash
from data_plugin.utils.tensor_files import read_tensors

SHIPPED = "shipped"
"""What a command line calls it."""

FOLDER = Path(__file__).with_name("shipped_micro")
"""Where it lies: the supernet, its SHA-256 and its card."""

_WEIGHTS, _HASH = "supernet.safetensors", "supernet.sha256"


def shipped_supernet(folder: Path = FOLDER) -> Path:
    """The file of the shipped supernet.

    Args:
        folder: where it lies.

    Raises:
        UserError: if it is missing, or was changed since it was packed.
    """
    path = folder / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} is missing, the supernet that comes with the package; install data_plugin again")
    expected = (folder / _HASH).read_text().split()[0] if (folder / _HASH).is_file() else "none that is known"
    found = file_hash(path)
    if found != expected:
        raise UserError(
            f"{path} was changed since it was packed (SHA-256 {found}, expected {expected}); install data_plugin again"
        )
    return path


def pack(source: Path, folder: Path = FOLDER) -> Path:
    """Write a supernet as the shipped one: every weight in half precision, and the hash of the file.

    Args:
        source: the file that pre-training wrote.
        folder: where it shall lie.

    Returns:
        The packed file.

    Raises:
        UserError: if ``source`` cannot be read, or half precision cannot hold one of its weights.
    """
    tensors, header = read_tensors(source)
    halves = {name: _half(source, name, value) for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _WEIGHTS
    write_whole(path, lambda temporary: save_file(halves, temporary, metadata=dict(header)))
    write_whole(folder / _HASH, lambda temporary: temporary.write_text(f"{file_hash(path)}  {_WEIGHTS}\n"))
    return path


def _half(source: Path, name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise UserError(f"{source} holds {name} up to {value.abs().max():g}, more than half precision can (65504)")
    return half
