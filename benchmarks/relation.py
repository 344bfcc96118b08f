"""The streamed relation of two feature maps against the whole matrices: seconds, and memory beyond the maps.

Each row is a process of its own, so that its peak memory is its own. The whole matrices are left out where the two
of them would exceed --memory; at 66,800 positions, C2 of an image of 800 x 1344, they would take 36 GB.

    python benchmarks/relation.py --positions 1000 4000 16000 66800
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.relation import TEMPERATURE, TeacherRelation


def whole_matrices(teacher: Tensor, student: Tensor) -> Tensor:
    """Eq. 4 and 5 of DATA, written down."""
    relations = []
    for features in (teacher, student):
        columns = F.normalize(features.flatten(2), dim=1)
        relations.append((columns.mT @ columns / TEMPERATURE).log_softmax(dim=-1))
    return -(relations[0].exp() * relations[1]).sum(dim=(1, 2), dtype=torch.float64)


def streamed(teacher: Tensor, student: Tensor) -> Tensor:
    return TeacherRelation(teacher).distance(student)


WAYS = {"whole": whole_matrices, "streamed": streamed}


def measure(way: str, positions: int, channels: int, device: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, channels, 1, positions, generator=generator).to(device) for _ in range(2)]
    with torch.inference_mode():
        WAYS[way](*(each[..., :64] for each in maps))  # what is loaded at the first call
        before = _peak(device)
        start = time.perf_counter()
        distance = WAYS[way](*maps).item()
        return {"seconds": time.perf_counter() - start, "bytes": _peak(device) - before, "distance": distance}


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
    print("| positions | whole: s | GB | streamed: s | GB | seconds, whole / streamed | distances differ by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for positions in arguments.positions:
        found = {}
        # Both maps' logarithms, and their exponentials and products on the way.
        ways = [way for way in WAYS if way == "streamed" or 4 * 4 * positions**2 <= arguments.memory * 1e9]
        for way in ways:
            command = [sys.executable, __file__, *sys.argv[1:], "--row", way, str(positions)]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way] = json.loads(ended.stdout)
        own = found["streamed"]
        cells = [f"{own['seconds']:.2f}", f"{own['bytes'] / 1e9:.2f}"]
        if "whole" in found:
            whole = found["whole"]
            ratio, apart = whole["seconds"] / own["seconds"], abs(whole["distance"] / own["distance"] - 1)
            cells = [f"{whole['seconds']:.2f}", f"{whole['bytes'] / 1e9:.2f}", *cells, f"{ratio:.2f}", f"{apart:.0e}"]
        else:
            cells = ["", f"({2 * 4 * positions**2 / 1e9:.1f} for both alone)", *cells, "", ""]
        print(f"| {positions:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
