"""Choosing a coreset: the streaming choice beside the plain algorithm and the product of the matrices alone.

Synthetic features, normally distributed around a thousand directions, of which the target has the first fifty.
*product* multiplies block by block in single precision and keeps nothing; *plain* holds all similarities and sorts them
whole for every centroid, as the authors' code does, and *plain in double* the same in double precision, which tells
apart what single precision cannot; *choice* is what ``data-select`` does, on one process and on
several. Each row is a run of its own. Memory is the peak of what it holds beyond what it started with, the mapped store
left out.

The defaults take seconds. ImageNet's size, for which the store takes 5.2 GB of disk:

    python benchmarks/selection.py --images 1281167 --dim 2048 --targets 8000 --store /tmp/store

(Not called select.py: run as a file, it would hide Python's own module of that name.)
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_plugin.coreset.centroids import centroids_of
from data_plugin.coreset.remaining import Remaining
from data_plugin.coreset.rounds import MOST, REFERENCE, SHARE, choose
from data_plugin.coreset.run import SHORTEST, SPARE
from data_plugin.features.run import SHARD_SIZE
from data_plugin.features.store import HEADER, EmbeddingStore, StoreHeader, make_store, write_shard
from data_plugin.utils.ranks import joined_ranks, rank

DIRECTIONS, OF_TARGET = 1_000, 50
SPREAD = 1.5
"""Length of the noise, the directions having length 1."""


def write(folder: Path, images: int, dim: int, directions: int, seed: int) -> None:
    """A store of features around the first of the directions."""
    if (folder / HEADER).is_file():
        return
    centres = np.random.default_rng(0).normal(size=(DIRECTIONS, dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    source = {"path": "", "root": "", "images": images, "fingerprint": ""}
    header = StoreHeader({"sha256": "", "arch": "", "file": "", "tap": "C5"}, {}, source, dim, SHARD_SIZE)
    random = np.random.default_rng(seed)
    for shard in make_store(folder, header):
        part = header.part(shard)
        noise = random.normal(size=(len(part), dim), scale=SPREAD / math.sqrt(dim)).astype(np.float32)
        features = centres[random.integers(directions, size=len(part))] + noise
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        names = [f"{index}.jpg" for index in part]
        write_shard(folder, shard, features, names, [f"{seed} {index}" for index in part], [])


def product(opened: EmbeddingStore, centroids: np.ndarray, budget: int, stop: bool) -> list[int]:
    single = torch.from_numpy(centroids).float()
    for block in opened:
        single @ torch.from_numpy(np.array(block.features)).float().T
    return []


def plain(
    opened: EmbeddingStore, centroids: np.ndarray, budget: int, stop: bool, precision: torch.dtype = torch.float32
) -> list[int]:
    rows = torch.from_numpy(centroids).to(precision)
    blocks = (torch.from_numpy(np.array(block.features)).to(precision) for block in opened)
    similar = torch.cat([rows @ block.T for block in blocks], dim=1)
    orders = [torch.argsort(row, descending=True, stable=True).numpy() for row in similar]
    places = [0] * len(orders)
    chosen: dict[int, None] = {}
    threshold, rounds = -math.inf, 0
    while len(chosen) < budget:
        taken = []
        for centroid, order in enumerate(orders):
            while places[centroid] < len(order) and int(order[places[centroid]]) in chosen:
                places[centroid] += 1
            if places[centroid] < len(order):
                taken.append(int(order[places[centroid]]))
        if not taken:
            break
        mean = similar[range(len(taken)), taken].mean().item()
        rounds += 1
        if stop and rounds == REFERENCE:
            threshold = SHARE * mean
        if mean < threshold:
            break
        chosen |= dict.fromkeys(list(dict.fromkeys(taken))[: budget - len(chosen)])
    return list(chosen)


def choice(opened: EmbeddingStore, centroids: np.ndarray, budget: int, stop: bool) -> list[int]:
    length = SHORTEST if stop else max(SHORTEST, SPARE * math.ceil(budget / len(centroids)))
    return list(choose(Remaining(opened, centroids, length), budget, stop).images)


WAYS: dict[str, Callable[[EmbeddingStore, np.ndarray, int, bool], list[int]]] = {
    "product": product,
    "plain": plain,
    "plain in double": partial(plain, precision=torch.float64),
    "choice": choice,
}


class Peak:
    """The most memory that this process holds for the time of a ``with``, mapped files left out, in bytes."""

    def __enter__(self) -> Peak:
        self.before = self.most = self.held()
        self.ended = threading.Event()
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.watch.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.01):
            self.most = max(self.most, self.held())

    @staticmethod
    def held() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024


def measure(way: str, store: Path, budget: int | None, clusters: int, answer: Path) -> None:
    """Choose in one way, and write down what that took."""
    with joined_ranks():
        opened, targets = EmbeddingStore(store / "open"), EmbeddingStore(store / "target")
        centroids = centroids_of(targets.features(range(targets.images)), clusters)
        most = MOST * targets.images if budget is None else budget
        with Peak() as peak:
            start = time.perf_counter()
            chosen = WAYS[way](opened, centroids, most, budget is None)
            seconds = time.perf_counter() - start
        if rank() == 0:
            found = {"seconds": seconds, "bytes": peak.most - peak.before, "chosen": chosen}
            answer.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="of the open set")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--targets", type=int, default=1_000)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--budget", type=int, help="images (default: until the stop)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes of the choice")
    parser.add_argument("--store", type=Path, help="folder for the features, kept (default: a temporary one)")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        way, answer = arguments.row
        measure(way, arguments.store, arguments.budget, arguments.clusters, Path(answer))
        return
    with tempfile.TemporaryDirectory() as scratch:
        store, answer = arguments.store or Path(scratch, "store"), Path(scratch, "answer")
        write(store / "open", arguments.images, arguments.dim, DIRECTIONS, seed=1)
        write(store / "target", arguments.targets, arguments.dim, OF_TARGET, seed=2)
        print(f"{arguments.images:,} x {arguments.dim}, {arguments.targets:,} targets, {arguments.clusters} centroids")
        print("| way | processes | s | of the product's | GB | images chosen | as plain in double, and in its order |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        alone, reference = 0.0, list[int]()
        each_alone = ("product", "plain in double", "plain")
        for way, ranks in (*((way, 1) for way in each_alone), *(("choice", ranks) for ranks in arguments.ranks)):
            launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
            options = [*sys.argv[1:], "--store", str(store), "--row", way, str(answer)]
            subprocess.run([sys.executable, *launch, __file__, *options], check=True, stdout=subprocess.DEVNULL)
            found = json.loads(answer.read_text())
            chosen = found["chosen"]
            alone = alone or found["seconds"]
            reference = reference or chosen
            cells = [way, str(ranks), f"{found['seconds']:.2f}", f"{found['seconds'] / alone:.2f}"]
            cells += [f"{found['bytes'] / 1e9:.3f}"]
            same = "all" if chosen == reference else f"{len({*chosen} & {*reference}):,}, not in its order"
            cells += [f"{len(chosen):,}", same] if chosen else ["", ""]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
