"""Search against the two other ways to run it: each network on its own, and the authors' procedure.

(a) per network: the teacher runs once a batch, every network runs from the image on.
(b) authors': for every network the images are loaded again and the teacher runs again.

All three see the same images and networks in one run on one machine. Each row is a process of its own, so that its
peak memory is its own: that beyond the two branches' weights, library workspaces included. Times are without what a
process spends once: wall clock on a GPU, and on a CPU seconds of all its threads, so that other work on the machine
matters little. Ratios are against ours. (a) and (b) may run on a seeded part of the networks, whose share of the
multiply-accumulates scales their time up to all of them; the table says so. The prediction is the time for the tree's
multiply-accumulates at the throughput of the largest network alone, in the faster of torch's memory formats.

    python benchmarks/search.py --images 8 --size 128
    python benchmarks/search.py --images 2 --size 64 --space data --sets exhaustive --part 40
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from image_files import ImageFiles

from data_plugin import Arch, SearchSpace
from data_plugin.backbones import DynamicResNet
from data_plugin.backbones.sliced import batch_statistics
from data_plugin.features.prefix_tree import tree_flops, tree_order
from data_plugin.images.batch import ImageBatches
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.search.distances.relation import TeacherRelation
from data_plugin.search.searcher import Searcher
from data_plugin.space import cost
from data_plugin.space.search_space import SPACES
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo

TAP = 3
"""Index of C5, which Faster R-CNN C4 reads."""


def ours(supernet: Supernet, archs: Sequence[Arch], batches: ImageBatches) -> np.ndarray:
    result = Searcher(supernet, ["C5"]).measure(archs, batches)
    return result.scores[[result.index[arch] for arch in archs]]


def per_network(supernet: Supernet, archs: Sequence[Arch], batches: ImageBatches) -> np.ndarray:
    query, key = supernet.query, supernet.key
    scores, images_seen = np.zeros(len(archs)), 0
    with torch.inference_mode(), batch_statistics(query), batch_statistics(key):
        for batch in batches:
            images = batch.images.to(next(query.parameters()).device)
            teacher = TeacherRelation(key(images, key.space.largest)[TAP])
            for i, arch in enumerate(archs):
                divergences, _ = teacher.estimate(query(images, arch)[TAP])
                scores[i] += divergences.sum().item() / teacher.positions
            images_seen += len(images)
    return scores / images_seen


def authors(supernet: Supernet, archs: Sequence[Arch], batches: ImageBatches) -> np.ndarray:
    return np.concatenate([per_network(supernet, [arch], batches) for arch in archs])


WAYS = {"ours": ours, "per network": per_network, "authors'": authors}
SETS = ("one group", "seven groups", "exhaustive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--samples", type=int, default=100, help="networks per group")
    parser.add_argument("--part", type=int, default=100, help="networks that (a) and (b) run at the most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(row(arguments, *arguments.row)))
        return
    print(f"{arguments.images} images of {arguments.size} pixels on {arguments.device}, space {arguments.space}")
    print("| networks | G multiply-accumulates an image: tree / each alone | way | s | against ours | GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder:
        root = draw_voc(Path(folder), train=arguments.images, test=1, size=(320, 240), seed=0)
        for name in arguments.sets:
            found = {way: in_a_process(name, way, str(root)) for way in WAYS}
            own = found["ours"]
            known = dict(zip(own["archs"], own["scores"], strict=True))
            for way, each in found.items():
                np.testing.assert_allclose(each["scores"], [known[arch] for arch in each["archs"]], rtol=1e-3)
                part = "" if each["share"] == 1 else f" (from {len(each['archs'])} networks, {each['seconds']:.1f} s)"
                seconds = each["seconds"] / each["share"]
                first = f"{name}: {len(known):,}" if way == "ours" else ""
                costs = f"{own['tree'] / 1e9:,.1f} / {own['naive'] / 1e9:,.1f}" if way == "ours" else ""
                against = f"{seconds / own['seconds']:.1f} times{part}"
                if way == "ours":
                    predicted = arguments.images * own["tree"] / own["throughput"]
                    against = f"{seconds / predicted - 1:+.0%} of its prediction"
                cells = (first, costs, way, f"{seconds:.1f}", against, f"{each['bytes'] / 1e9:.2f}")
                print(f"| {' | '.join(cells)} |", flush=True)
            reached = f"{own['throughput'] / 1e9:.1f} G multiply-accumulates a second, {own['threads']} threads"
            print(f"  the largest network alone reaches {reached}", file=sys.stderr)


def in_a_process(*names: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--row", *names]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def row(arguments: argparse.Namespace, name: str, way: str, root: str) -> dict[str, Any]:
    """One way to search one set of networks: seconds, bytes and scores."""
    device, space = torch.device(arguments.device), SPACES[arguments.space]()
    supernet = random_supernet(space, device)
    files = sorted((Path(root) / "JPEGImages").glob("*.jpg"))[: arguments.images]
    batches = ImageFiles(files, arguments.size).batches(arguments.batch_size)
    size = (arguments.size, arguments.size)
    networks = candidate_sets(space, arguments.samples)[name]
    archs = networks
    if way != "ours" and arguments.part < len(networks):
        archs = [networks[i] for i in np.random.default_rng(0).choice(len(networks), arguments.part, replace=False)]
    naive = sum(cost.flops(arch, size) for arch in networks)
    before = peak(device)
    WAYS[way](supernet, [space.smallest], batches)  # what a process spends once
    scores, seconds = timed(lambda: WAYS[way](supernet, archs, batches), device)
    return {
        "archs": [str(arch) for arch in archs],
        "scores": scores.tolist(),
        "seconds": seconds,
        "bytes": peak(device) - before,
        "share": sum(cost.flops(arch, size) for arch in archs) / naive,
        "naive": naive,
        "tree": tree_flops(tree_order(networks), size) + cost.flops(space.largest, size),
        "throughput": largest_throughput(supernet.query, batches, device) if way == "ours" else 0,
        "threads": torch.get_num_threads(),
    }


def random_supernet(space: SearchSpace, device: torch.device | str = "cpu") -> Supernet:
    torch.manual_seed(0)
    query, key = (DynamicResNet(space).eval().to(device) for _ in range(2))
    return Supernet(SupernetInfo(space, "random weights", InputFormat.imagenet()), query, key)


def timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    if device.type == "cpu":
        start = time.process_time()
        return run(), time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    torch.cuda.synchronize()
    return result, time.perf_counter() - start


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def candidate_sets(space: SearchSpace, samples: int) -> dict[str, list[Arch]]:
    """One group, seven groups and everything: the groups of 1 G of the paper's space, or as many equal parts."""
    flops = cost.flops(space.table)
    bounds = np.arange(1, 9) * 1e9 if space == SearchSpace.data() else np.linspace(flops.min(), flops.max() + 1, 8)
    groups = []
    for low, high in itertools.pairwise(bounds):
        fits = (flops >= low) & (flops < high)
        groups.append(space.sample(min(samples, int(fits.sum())), 0, lambda _, fits=fits: fits))
    return {"one group": groups[2], "seven groups": [a for group in groups for a in group], "exhaustive": list(space)}


def largest_throughput(query: DynamicResNet, batches: ImageBatches, device: torch.device) -> float:
    """Multiply-accumulates a second of the largest network on one batch: the better format's median of 25 runs."""
    images = next(iter(batches)).images.to(device)
    medians = []
    with torch.inference_mode():
        for memory_format in (torch.contiguous_format, torch.channels_last):
            laid = images.contiguous(memory_format=memory_format)
            runs = [timed(lambda laid=laid: query(laid, query.space.largest)[0].sum().cpu(), device) for _ in range(26)]
            medians.append(float(np.median([seconds for _, seconds in runs[1:]])))
    return len(images) * cost.flops(query.space.largest, tuple(images.shape[-2:])) / min(medians)


if __name__ == "__main__":
    main()
