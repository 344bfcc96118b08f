"""What an unfinished search has measured, one file a batch, so that a killed one goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.errors import UserError
from data_plugin.files import write_whole


@dataclass(frozen=True)
class BatchDistances:
    """Distances that one batch of images gave.

    Args:
        distances: per tap, network and image, shape (taps, archs, images), float64.
        images: what identifies each image.
        sha256: hash of the pixels that the networks saw.
    """

    distances: np.ndarray
    images: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class PartialSearch:
    """The folder of an unfinished search.

    Args:
        folder: is made with the first finished batch.
        run: everything that decides the distances, JSON values only.
    """

    folder: Path
    run: Mapping[str, Any]

    def write(self, index: int, batch: BatchDistances) -> None:
        """Keep the distances of batch ``index``."""
        description = self.folder / "run.json"
        if not description.is_file():
            write_whole(description, lambda path: path.write_text(json.dumps(self.run, indent=1)))

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, distances=batch.distances, images=np.array(batch.images), sha256=np.array(batch.sha256))

        write_whole(self.folder / f"batch-{index:06d}.npz", save)

    def read(self) -> dict[int, BatchDistances]:
        """The batches that are finished, by their index.

        Raises:
            UserError: if they are those of another search; the message names an entry that differs.
        """
        description = self.folder / "run.json"
        if not description.is_file():
            return {}
        before, now = json.loads(description.read_text()), json.loads(json.dumps(self.run))
        differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if differing:
            key = differing[0]
            raise UserError(
                f"{self.folder} holds a search with another {key.replace('_', ' ')} ({_short(before.get(key))}, now "
                f"{_short(now.get(key))}); resume with the same arguments, or start anew with --overwrite"
            )
        return {int(path.stem.removeprefix("batch-")): _load(path) for path in self.folder.glob("batch-*.npz")}


def _load(path: Path) -> BatchDistances:
    with np.load(path, allow_pickle=False) as file:
        return BatchDistances(file["distances"], tuple(file["images"].tolist()), str(file["sha256"]))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
