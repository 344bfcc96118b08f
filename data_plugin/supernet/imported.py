"""What became of a checkpoint that others wrote and that was read as a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_plugin.supernet.checkpoint import Supernet
from data_plugin.utils.provenance import file_hash, installed_versions


@dataclass(frozen=True)
class Imported:
    """A supernet, and what became of all entries of the file that it comes from.

    Args:
        supernet: the supernet.
        entries: how many entries each part took.
        left_out: entries that were left out, or what the names of several begin with and how many these are.
        notes: what the file lacks, and what stands in its place, a sentence each.
    """

    supernet: Supernet
    entries: Mapping[str, int]
    left_out: list[str]
    notes: tuple[str, ...] = ()


def origin(path: Path, image_size: int) -> dict[str, Any]:
    """What an imported supernet's file says of its training.

    Args:
        path: the file that it comes from.
        image_size: height and width of the images of that training in pixels.
    """
    return {
        "image_size": image_size,
        "imported": {"file": path.name, "sha256": file_hash(path)},
        "versions": installed_versions(("data_plugin", "torch")),
    }
