"""What an unfinished search has measured, one file a batch, so that a killed one goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

RUN_FILE = "run.json"
"""What was run and on which networks, beside the files of the batches."""


@dataclass(frozen=True)
class BatchDistances:
    """Distances that one batch of images gave.

    Args:
        distances: per tap, network and image, shape (taps, archs, images), float64.
        images: what identifies each image.
        sha256: hash of the pixels that the networks saw.
        sampling_variance: per tap and network, the variance from drawing rows of the relation, summed up over the
            images, shape (taps, archs).
        parts: in how many parts the batch was compared.
    """

    distances: np.ndarray
    images: tuple[str, ...]
    sha256: str
    sampling_variance: np.ndarray
    parts: int


@dataclass(frozen=True)
class PartialSearch:
    """The folder of an unfinished search; :func:`open_partial` makes it.

    Args:
        folder: is made with the first finished batch.
        run: everything that decides the distances, JSON values only.
        candidates: by budget, the networks that are compared, where they are known beforehand.
        max_memory: bytes of tensors that may be held at once; what decides in how many parts batches are compared.
        part_name: which part of the search this is, empty for a search in one part.
    """

    folder: Path
    run: Mapping[str, Any]
    candidates: Mapping[str, Sequence[Arch]]
    max_memory: int
    part_name: str = ""

    def part(self, name: str) -> PartialSearch:
        """A part of the search, with networks or images of its own, that keeps its batches apart."""
        return replace(self, part_name=name)

    def write(self, index: int, batch: BatchDistances) -> None:
        """Keep the distances of batch ``index``."""
        description = self.folder / RUN_FILE
        if not description.is_file():
            names = {budget: [str(arch) for arch in archs] for budget, archs in self.candidates.items()}
            text = json.dumps({"run": self.run, "candidates": names, "max_memory": self.max_memory}, indent=1)
            write_whole(description, lambda path: path.write_text(text))

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(
                    file,
                    distances=batch.distances,
                    images=np.array(batch.images),
                    sha256=np.array(batch.sha256),
                    sampling_variance=batch.sampling_variance,
                    parts=np.array(batch.parts),
                )

        write_whole(self.folder / self.part_name / f"batch-{index:06d}.npz", save)

    def read(self) -> dict[int, BatchDistances]:
        """The batches that are finished, by their index."""
        found = (self.folder / self.part_name).glob("batch-*.npz")
        return {int(path.stem.removeprefix("batch-")): _load(path) for path in found}


def open_partial(
    folder: Path, run: Mapping[str, Any], draw: Callable[[], Mapping[str, Sequence[Arch]]], max_memory: int
) -> PartialSearch:
    """Go on with the unfinished search of a folder, or start one.

    Args:
        folder: where the search keeps what it has.
        run: everything that decides the distances, JSON values only.
        draw: gives the candidates of a new search; an unfinished one keeps its own, which a budget in measured
            latency would not give a second time.
        max_memory: the memory bound of a new search; an unfinished one keeps its own, for less may be free now, and
            batches that are split in another way have other statistics.

    Raises:
        UserError: if the folder holds another search; the message names an entry that differs.
    """
    if not (folder / RUN_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # batches that nothing tells the search of
        return PartialSearch(folder, run, draw(), max_memory)
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
    return PartialSearch(folder, run, candidates, held["max_memory"])


def _load(path: Path) -> BatchDistances:
    with np.load(path, allow_pickle=False) as file:
        return BatchDistances(
            file["distances"],
            tuple(file["images"].tolist()),
            str(file["sha256"]),
            file["sampling_variance"],
            int(file["parts"]),
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
