"""What an artefact says of where it comes from: hashes of files, versions of packages, names of devices."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """What a GPU or the CPU is called by its maker; the CPU's kind where the system does not tell."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    processors = Path("/proc/cpuinfo")
    told = re.search(r"^model name\s*:\s*(.+)$", processors.read_text(), re.M) if processors.is_file() else None
    return told[1].strip() if told else platform.processor() or platform.machine()
