"""How the cost of a search grows with images, networks, resolution and processes.

One line is varied from a common base; every process computes with one thread. Times are CPU seconds of the busiest
process, so that other work on the machine matters little, with the wall clock beside them.

    python benchmarks/search_growth.py
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from image_files import ImageFiles
from search import random_supernet

from data_plugin import SearchSpace
from data_plugin.features.prefix_tree import tree_flops, tree_order
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.search.searcher import Searcher
from data_plugin.space import cost
from data_plugin.space.search_space import SPACES
from data_plugin.utils.ranks import joined_ranks

BASE = {"images": 8, "networks": 100, "size": 128, "taps": "C5", "processes": 1}
VARIED = {
    "images": (4, 8, 16),
    "networks": (10, 100, 1000),
    "size": (64, 128, 256),
    "taps": ("C5", "C2,C3,C4,C5"),
    "processes": (1, 2),
}


def run(number: int, port: int, space: str, files: list[Path], case: dict, folder: str) -> None:
    """One process of a search; leaves its CPU and wall time in a file."""
    torch.set_num_threads(1)
    if case["processes"] > 1:
        ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": case["processes"], "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="localhost")
    supernet = random_supernet(SPACES[space]())
    batches = ImageFiles(files[: case["images"]], case["size"]).batches(2)
    archs = supernet.info.space.sample(case["networks"], seed=0)
    Searcher(supernet, ["C5"]).measure(archs[:1], batches.only([0]))  # what is paid once a process
    with joined_ranks():
        wall, cpu = time.perf_counter(), time.process_time()
        Searcher(supernet, case["taps"].split(",")).measure(archs, batches)
        times = time.process_time() - cpu, time.perf_counter() - wall
    Path(folder, str(number)).write_text(" ".join(map(str, times)))


def measure(space: str, files: list[Path], case: dict) -> tuple[float, float]:
    """CPU seconds and wall seconds of the busiest process."""
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(run, (port, space, files, case, folder), nprocs=case["processes"])
        times = [tuple(map(float, path.read_text().split())) for path in Path(folder).iterdir()]
    return max(cpu for cpu, _ in times), max(wall for _, wall in times)


def multiply_accumulates(space: SearchSpace, case: dict) -> float:
    """Of the tree and the teacher on all images, as if each tap's deepest stage were always computed."""
    size, last_stage = (case["size"], case["size"]), int(case["taps"][-1]) - 2
    tree = tree_flops(tree_order(space.sample(case["networks"], seed=0)), size, last_stage)
    return case["images"] * (tree + cost.flops(space.largest, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--only", choices=VARIED, nargs="+", default=list(VARIED))
    arguments = parser.parse_args()
    space = SPACES[arguments.space]()
    print("base: " + ", ".join(f"{name} {value}" for name, value in BASE.items()))
    print(f"{'varied':<24}{'G MAC':>10}{'CPU s':>10}{'wall s':>10}{'G MAC / CPU s':>16}")
    with TemporaryDirectory() as folder:
        root = draw_voc(Path(folder), train=max(VARIED["images"]), test=1, size=(320, 240), seed=0)
        files = sorted((root / "JPEGImages").glob("*.jpg"))
        for name in arguments.only:
            for value in VARIED[name]:
                case = {**BASE, name: value}
                work = multiply_accumulates(space, case) / 1e9
                cpu, wall = measure(arguments.space, files, case)
                speed = work / case["processes"] / cpu
                print(f"{name + ' ' + str(value):<24}{work:10.1f}{cpu:10.1f}{wall:10.1f}{speed:16.1f}", flush=True)


if __name__ == "__main__":
    main()
