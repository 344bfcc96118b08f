"""What an unfinished search has measured, one file a batch, so that a killed one goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

RUN_FILE = "run.json"
"""What was run and on which networks, beside the files of the batches."""


@dataclass(frozen=True)
class BatchResult:
    """What one batch of images gave.

    Args:
        values: per tap, divergences of the maps that were compared, (maps, images), float64.
        variance: per tap, their variances from drawing rows of the relation, summed up over the images, (maps,).
        entropies: per tap and image, what the distance has beyond the divergence, (taps, images).
        images: what identifies each image.
        sha256: hash of the pixels that the networks saw.
        parts: in how many parts the batch was compared.
    """

    values: Sequence[np.ndarray]
    variance: Sequence[np.ndarray]
    entropies: np.ndarray
    images: tuple[str, ...]
    sha256: str
    parts: int


@dataclass(frozen=True)
class PartialSearch:
    """The folder of an unfinished search; :func:`open_partial` makes it.

    Args:
        folder: is made with the first finished batch.
        run: everything that decides the distances, JSON values only.
        candidates: by budget, the networks that are compared, where they are known beforehand.
    """

    folder: Path
    run: Mapping[str, Any]
    candidates: Mapping[str, Sequence[Arch]]

    def write(self, measurement: int, index: int, batch: BatchResult) -> None:
        """Keep what a batch gave.

        Args:
            measurement: number of the measurement, of which some searches make several.
            index: number of the batch.
            batch: what it gave.
        """
        description = self.folder / RUN_FILE
        if not description.is_file():
            names = {budget: [str(arch) for arch in archs] for budget, archs in self.candidates.items()}
            text = json.dumps({"run": self.run, "candidates": names}, indent=1)
            write_whole(description, lambda path: path.write_text(text))
        arrays: dict[str, Any] = {
            **{f"values_{tap}": values for tap, values in enumerate(batch.values)},
            **{f"variance_{tap}": variance for tap, variance in enumerate(batch.variance)},
            "entropies": batch.entropies,
            "images": np.array(batch.images),
            "sha256": np.array(batch.sha256),
            "parts": np.array(batch.parts),
        }

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        write_whole(self._part(measurement) / f"batch-{index:06d}.npz", save)

    def read(self, measurement: int) -> dict[int, BatchResult]:
        """What a measurement's finished batches gave, by their number."""
        found = self._part(measurement).glob("batch-*.npz")
        return {int(path.stem.removeprefix("batch-")): _load(path) for path in found}

    def _part(self, measurement: int) -> Path:
        return self.folder / f"{measurement:03d}"


def open_partial(
    folder: Path, run: Mapping[str, Any], draw: Callable[[], Mapping[str, Sequence[Arch]]]
) -> PartialSearch:
    """Go on with the unfinished search of a folder, or start one.

    Args:
        folder: where the search keeps what it has.
        run: everything that decides the distances, JSON values only.
        draw: gives the candidates of a new search; an unfinished one keeps its own, which a budget in measured
            latency would not give a second time.

    Raises:
        UserError: if the folder holds another search; the message names an entry that differs.
    """
    if not (folder / RUN_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # batches that nothing tells the search of
        return PartialSearch(folder, run, draw())
    held = json.loads((folder / RUN_FILE).read_text())
    before, now = held["run"], json.loads(json.dumps(run))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        key = differing[0]
        raise UserError(
            f"{folder} holds a search with another {key.replace('_', ' ')} ({_short(before.get(key))}, now "
            f"{_short(now.get(key))}); resume with the same arguments, or start anew with --overwrite"
        )
    candidates = {budget: [Arch.parse(name) for name in names] for budget, names in held["candidates"].items()}
    return PartialSearch(folder, run, candidates)


def _load(path: Path) -> BatchResult:
    with np.load(path, allow_pickle=False) as file:
        taps = range(sum(name.startswith("values_") for name in file.files))
        return BatchResult(
            [file[f"values_{tap}"] for tap in taps],
            [file[f"variance_{tap}"] for tap in taps],
            file["entropies"],
            tuple(file["images"].tolist()),
            str(file["sha256"]),
            int(file["parts"]),
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
