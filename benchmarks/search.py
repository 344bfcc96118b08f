"""Search against the two other ways to run it: each network on its own, and the authors' procedure.

(a) per network: the teacher runs once a batch, every network runs from the image on.
(b) authors': for every network the images are loaded again and the teacher runs again.

All three see the same images and networks in one run on one machine; times are wall clock, ratios are against ours.
With --exhaustive the other two run on a seeded part of the networks, whose share of the multiply-accumulates scales
their time up to all of them; the table says so.

    python benchmarks/search.py --images 8 --size 128
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from data_plugin import Arch, SearchSpace, cost
from data_plugin.backbones import DynamicResNet
from data_plugin.backbones.sliced import batch_statistics
from data_plugin.drawn_voc import draw_voc
from data_plugin.framework import ImageBatch
from data_plugin.input_format import InputFormat
from data_plugin.prefix_tree import tree_flops, tree_order
from data_plugin.relation import TeacherRelation
from data_plugin.search import search
from data_plugin.space import SPACES

TAP = 3
"""Index of C5, which Faster R-CNN C4 reads."""


@dataclass
class Loader:
    """Images from JPEG files, decoded anew whenever they are iterated over."""

    files: Sequence[Path]
    size: int
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def only(self, indices: Sequence[int]) -> Loader:
        starts = [index * self.batch_size for index in indices]
        return Loader([f for s in starts for f in self.files[s : s + self.batch_size]], self.size, self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        form = InputFormat.imagenet()
        for start in range(0, len(self.files), self.batch_size):
            files = self.files[start : start + self.batch_size]
            pixels = [np.asarray(Image.open(f).convert("RGB").resize((self.size, self.size))) for f in files]
            images = (np.stack(pixels) - np.array(form.mean)) / np.array(form.std)
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
            yield ImageBatch(tensor, [(self.size, self.size)] * len(files), [f.name for f in files])


def ours(query: DynamicResNet, key: DynamicResNet, archs: Sequence[Arch], loader: Loader) -> np.ndarray:
    result = search(query, key, archs, loader, ["C5"])
    order = {arch: i for i, arch in enumerate(result.archs)}
    return result.scores[[order[arch] for arch in archs]]


def per_network(query: DynamicResNet, key: DynamicResNet, archs: Sequence[Arch], loader: Loader) -> np.ndarray:
    scores = np.zeros(len(archs))
    with torch.inference_mode(), batch_statistics(query), batch_statistics(key):
        for batch in loader:
            images = batch.images.to(next(query.parameters()).device)
            teacher = TeacherRelation(key(images, key.space.largest)[TAP])
            for i, arch in enumerate(archs):
                scores[i] += teacher.distance(query(images, arch)[TAP]).sum().item()
    return scores / len(loader.files)


def authors(query: DynamicResNet, key: DynamicResNet, archs: Sequence[Arch], loader: Loader) -> np.ndarray:
    return np.concatenate([per_network(query, key, [arch], loader) for arch in archs])


def timed(run: Callable[[], np.ndarray], device: torch.device) -> tuple[np.ndarray, float]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    scores = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return scores, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--samples", type=int, default=100, help="networks per group")
    parser.add_argument("--part", type=int, default=100, help="networks that (a) and (b) run of an exhaustive search")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    space = SPACES[arguments.space]()
    query, key = (DynamicResNet(space).eval().to(device) for _ in range(2))

    with TemporaryDirectory() as folder:
        root = draw_voc(Path(folder), train=arguments.images, test=1, size=(320, 240), seed=0)
        files = sorted((root / "JPEGImages").glob("*.jpg"))[: arguments.images]
        loader = Loader(files, arguments.size, arguments.batch_size)
        throughput = largest_throughput(query, loader, device)
        print(f"{len(files)} images of {arguments.size} pixels on {device}, {torch.get_num_threads()} threads")
        print(f"the largest network alone reaches {throughput / 1e9:.1f} G multiply-accumulates a second\n")
        for label, run in (("ours", ours), ("per network", per_network), ("authors'", authors)):
            once = timed(lambda run=run: run(query, key, [space.smallest], loader), device)[1]
            again = timed(lambda run=run: run(query, key, [space.smallest], loader), device)[1]
            print(f"{label}: {once - again:.1f} s are spent once in a process, and not counted below")
        print()
        for name, archs in candidate_sets(space, arguments.samples).items():
            compare(name, archs, query, key, loader, throughput, device, arguments.part)
    print(f"\npeak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def candidate_sets(space: SearchSpace, samples: int) -> dict[str, list[Arch]]:
    """One group, seven groups and everything: the groups of 1 G of the paper's space, or as many equal parts."""
    flops = cost.flops(space.table)
    bounds = np.arange(1, 9) * 1e9 if space == SearchSpace.data() else np.linspace(flops.min(), flops.max() + 1, 8)
    groups = []
    for low, high in itertools.pairwise(bounds):
        fits = (flops >= low) & (flops < high)
        groups.append(space.sample(min(samples, int(fits.sum())), 0, lambda _, fits=fits: fits))
    return {"one group": groups[2], "seven groups": [a for group in groups for a in group], "exhaustive": list(space)}


def largest_throughput(query: DynamicResNet, loader: Loader, device: torch.device) -> float:
    """Multiply-accumulates a second of the largest network on one batch, the median of five runs."""
    images = next(iter(loader)).images.to(device)
    with torch.inference_mode():
        seconds = [timed(lambda: query(images, query.space.largest)[0].sum().cpu(), device)[1] for _ in range(6)][1:]
    return len(images) * cost.flops(query.space.largest, loader.size) / float(np.median(seconds))


def compare(
    name: str,
    archs: Sequence[Arch],
    query: DynamicResNet,
    key: DynamicResNet,
    loader: Loader,
    throughput: float,
    device: torch.device,
    part: int,
) -> None:
    size = (loader.size, loader.size)
    some = list(archs)
    if name == "exhaustive":
        some = [archs[i] for i in np.random.default_rng(0).choice(len(archs), min(part, len(archs)), replace=False)]
    naive = sum(cost.flops(arch, size) for arch in archs)
    share = naive / sum(cost.flops(arch, size) for arch in some)
    tree = tree_flops(tree_order(archs), size) + cost.flops(query.space.largest, size)
    found, seconds = timed(lambda: ours(query, key, archs, loader), device)
    print(f"{name}: {len(archs)} networks; {tree / 1e9:.1f} G multiply-accumulates an image, naive {naive / 1e9:.1f} G")
    predicted = len(loader.files) * tree / throughput
    print(f"  ours         {seconds:8.1f} s   {seconds / predicted - 1:+.0%} of what its multiply-accumulates predict")
    where = {arch: i for i, arch in enumerate(archs)}
    for label, run in (("per network", per_network), ("authors'", authors)):
        if label == "authors'" and name == "seven groups":
            some, share = some[::7], naive / sum(cost.flops(arch, size) for arch in some[::7])
        scores, time_other = timed(lambda run=run, some=some: run(query, key, some, loader), device)
        np.testing.assert_allclose(scores, found[[where[arch] for arch in some]], rtol=1e-3)
        scaled = "" if len(some) == len(archs) else f" (scaled up from {len(some)} networks, {time_other:.1f} s)"
        print(
            f"  {label:<12} {time_other * share:8.1f} s   {time_other * share / seconds:.1f} times ours{scaled}",
            flush=True,
        )


if __name__ == "__main__":
    main()
