"""Tensor files: reading those that others wrote, checking that they are whole and a model's, and writing our own."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole


def read_tensors(path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The contents of a ``.safetensors`` or a PyTorch file, read without executing anything that it holds.

    Args:
        path: the file; what does not end in ``.safetensors`` is read with ``torch.load(weights_only=True)``.

    Returns:
        The tensors by name (a PyTorch file may nest further mappings), and the text entries of a safetensors header.

    Raises:
        UserError: if the file is missing, truncated, no tensor file, or holds pickled objects.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; expected a checkpoint (.safetensors, .pth)")
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or not a safetensors file ({error}); copy it again") from error
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused, not loaded: it is damaged, or holds pickled objects other than tensors, which could "
            "run code; save it again as a plain dictionary of tensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is truncated or not a PyTorch file; copy it again") from error
    if not isinstance(contents, dict):
        raise UserError(f"{path} holds a {type(contents).__name__}; expected a dictionary of tensors")
    return contents, {}


def require_matching(path: Path | str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check that a file's tensors are those of a model, name by name and shape by shape.

    Args:
        path: the file or where else it came from, for the message.
        found: the tensors of the file.
        expected: the state dict of the model.
        what: what was to be loaded, for the message.

    Raises:
        UserError: naming the first entries that are missing, unexpected or of another shape.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    parts = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for label, names in problems
        if names
    ]
    if parts:
        raise UserError(f"{path} does not hold {what}: {'; '.join(parts)}")


def content_hash(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of tensors by name and of a text that belongs to them.

    Each tensor, in the order of the names, adds a line of JSON ``[name, type, [sizes]]`` and its bytes; the text comes
    before them.

    Args:
        tensors: the tensors, on any device.
        text: what else must not change.
    """
    digest = hashlib.sha256(f"{json.dumps(text)}\n".encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{json.dumps([name, str(value.dtype), list(value.shape)])}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_finite(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Check that no number is infinite or none at all.

    Args:
        path: the file, for the message.
        tensors: its tensors.

    Raises:
        UserError: naming the first tensor that holds such a number.
    """
    for name, value in tensors.items():
        # A minimum and a maximum carry NaN along, and are found ten times as fast as each number is looked at.
        if value.is_floating_point() and value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
            raise UserError(
                f"{path} holds numbers that are not finite, first in {name}: a training that lost its way left them; "
                "train again with a lower learning rate, or take weights from before"
            )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a ``.safetensors`` file whole or not at all, with the same bytes for the same contents.

    Args:
        path: the file to make or replace.
        tensors: the tensors by name, on the CPU and contiguous.
        header: its text entries.
    """
    contents = save(dict(tensors), metadata=dict(header))
    end = 8 + int.from_bytes(contents[:8], "little")
    # The library has the text entries in any order.
    described = {**json.loads(contents[8:end]), "__metadata__": dict(sorted(header.items()))}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.write(memoryview(contents)[end:])

    write_whole(path, write)


def write_pth(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a PyTorch file of a flat dictionary whole or not at all, with the same bytes for the same contents.

    Args:
        path: the file to make or replace.
        tensors: the tensors by name, on the CPU.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, torch would put its name into the file
            torch.save(dict(tensors), file)

    write_whole(path, write)
