"""The distance of two feature maps: in tiles, against the whole matrices of Eq. 4; seconds, and memory beyond the maps.

The teacher's side is prepared once, and every student costs the second figure. *whole* holds both matrices, *kept* the
teacher's side in tiles, as a search does for maps that are not too large, *tiles* neither, and *kernel*, on a GPU, is
the Triton kernel. Each row is a process of its own, so that its peak memory is its own. What would exceed --memory is
left out; at 66,800 positions, C2 of an image of 800 x 1344, the two whole matrices would take 36 GB.

    python benchmarks/relation.py --positions 1000 4000 16000 66800
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.search.distances.relation import TEMPERATURE, TeacherRelation


class WholeMatrices:
    """Eq. 4 and 5 of DATA, written down."""

    def __init__(self, features: Tensor) -> None:
        logs = self._log_relations(features)
        self.relations = logs.exp()
        self.own = self._distance(logs)

    def distance(self, features: Tensor) -> Tensor:
        return self._distance(self._log_relations(features))

    def _distance(self, logs: Tensor) -> Tensor:
        return -(self.relations * logs).sum(dim=(1, 2), dtype=torch.float64)

    def _log_relations(self, features: Tensor) -> Tensor:
        columns = F.normalize(features.flatten(2), dim=1)
        return (columns.mT @ columns / TEMPERATURE).log_softmax(dim=-1)


WAYS = {
    "whole": WholeMatrices,
    "kept": partial(TeacherRelation, keep=True, kernel=False),
    "tiles": partial(TeacherRelation, keep=False, kernel=False),
    "kernel": partial(TeacherRelation, keep=False, kernel=True),
}

HELD = {"whole": 16, "kept": 4}
"""Bytes that a way holds for every pair of positions, roughly."""


def measure(way: str, positions: int, channels: int, device: str) -> dict[str, float]:
    """Seconds for a teacher and for a student, bytes beyond the maps, and the divergence."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, channels, 1, positions, generator=generator).to(device) for _ in range(2)]
    with torch.inference_mode():
        few = [each[..., :64] for each in maps]
        WAYS[way](few[0]).distance(few[1]).item()  # what is loaded or compiled at the first call
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = _peak(device)
        start = time.perf_counter()
        teacher = WAYS[way](maps[0])
        if device == "cuda":
            torch.cuda.synchronize()
        prepared = time.perf_counter()
        distance = teacher.distance(maps[1]).item()
        ended = time.perf_counter()
        divergence = distance - teacher.own.item()
    return {
        "teacher": prepared - start,
        "student": ended - prepared,
        "bytes": _peak(device) - before,
        "divergence": divergence,
    }


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    parser.add_argument("--channels", type=int, default=256, help="of both maps")
    parser.add_argument("--memory", type=float, default=6.0, help="most GB that the whole matrices may take")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        way, positions = arguments.row
        print(json.dumps(measure(way, int(positions), arguments.channels, arguments.device)))
        return
    print("| positions | way | teacher: s | student: s | GB | student's time against whole | divergence differs by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for positions in arguments.positions:
        whole: dict[str, float] = {}
        for way in WAYS if arguments.device == "cuda" else list(WAYS)[:-1]:
            if HELD.get(way, 0) * positions**2 > arguments.memory * 1e9:
                continue
            command = [sys.executable, __file__, *sys.argv[1:], "--row", way, str(positions)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            whole = found if way == "whole" else whole
            cells = [f"{positions:,}", way, *(f"{found[key]:.2f}" for key in ("teacher", "student"))]
            cells += [f"{found['bytes'] / 1e9:.2f}"]
            if whole:
                apart = abs(found["divergence"] / whole["divergence"] - 1)
                cells += [f"{found['student'] / whole['student']:.2f}", f"{apart:.0e}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
