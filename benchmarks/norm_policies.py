"""Which batch-norm policy, and which tap, ranks networks best in a search?

Networks of one budget are ranked under every policy on two disjoint sets of few images, as a user's search would, and
the rankings are compared with

- themselves on the other set (stability);
- the ranking in the state in which a winner is handed over: statistics recalibrated on half of many other images,
  distances to the teacher on their other half;
- the ranking by labels: how often a validation image's own class mean is nearer than another class's, in pooled C5
  of networks in that same state.

A reference can rank no better than it agrees with itself, so the split-half correlation of both is printed too. The
regret is how much further the policy's winner is in the first reference than the best network there, as a part of the
networks' standard deviation.

    python benchmarks/norm_policies.py --supernet supernet.safetensors --data tiny_imagenet --taps z
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import ImageFolder

from data_plugin import Arch, SearchSpace
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.images.batch import ImageBatch
from data_plugin.images.input_format import InputFormat
from data_plugin.search.distances.embedding import trained_heads
from data_plugin.search.searcher import SearchResult, search
from data_plugin.search.taps import EMBEDDING
from data_plugin.space import cost
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import load_supernet

POLICIES = (("batch", 4), ("batch", 16), ("recalibrated", 4), ("running", 4))
"""Policies with images a batch."""


@dataclass(frozen=True)
class Batches:
    """Images of an image folder, resized and normalised."""

    folder: ImageFolder
    chosen: Sequence[int]
    size: int
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def only(self, indices: Sequence[int]) -> Batches:
        chosen = [i for b in indices for i in self.chosen[b * self.batch_size : (b + 1) * self.batch_size]]
        return Batches(self.folder, chosen, self.size, self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        form = InputFormat.imagenet()
        for start in range(0, len(self.chosen), self.batch_size):
            files = [self.folder.samples[i][0] for i in self.chosen[start : start + self.batch_size]]
            pixels = [np.asarray(self.folder.loader(f).resize((self.size, self.size))) for f in files]
            images = (np.stack(pixels) - np.array(form.mean)) / np.array(form.std)
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
            yield ImageBatch(tensor, [(self.size, self.size)] * len(files), files)

    def labels(self) -> Tensor:
        return torch.tensor([self.folder.targets[i] for i in self.chosen])


def one_budget(space: SearchSpace, count: int) -> list[Arch]:
    """Networks between the 45th and the 60th percentile of the space's cost."""
    flops = cost.flops(space.table)
    low, high = np.quantile(flops, [0.45, 0.6])
    return space.sample(count, 0, lambda table: (cost.flops(table) >= low) & (cost.flops(table) <= high))


def own_class_nearer(network: torch.nn.Module, train: Batches, val: Batches) -> np.ndarray:
    """Per validation image, the part of the other classes whose mean is further than its own class's."""
    with torch.inference_mode():
        features, queries = (
            torch.cat([network(batch.images)[-1].mean((2, 3)) for batch in images]) for images in (train, val)
        )
    centre = features.mean(0)
    features, queries = F.normalize(features - centre), F.normalize(queries - centre)
    members = F.one_hot(train.labels()).T.float()
    similarity = queries @ F.normalize(members @ features).T
    own = similarity.gather(1, val.labels()[:, None])
    return ((similarity < own).sum(1) / (len(members) - 1)).numpy()


def shuffled(folder: ImageFolder, size: int, batch_size: int, count: int) -> Batches:
    chosen = np.random.default_rng(0).permutation(len(folder))[:count]
    return Batches(folder, chosen.tolist(), size, batch_size)


def rows(result: SearchResult, archs: Sequence[Arch]) -> np.ndarray:
    """Distances (networks, images) in the order of ``archs``."""
    where = {arch: i for i, arch in enumerate(result.archs)}
    return result.per_image[[where[arch] for arch in archs]]


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first, second).statistic)


def by_labels(query: DynamicResNet, archs: Sequence[Arch], reference: Batches, train: Batches, val: Batches) -> Tensor:
    scores = []
    images = [batch.images for batch in reference.only(range(len(reference) // 2))]
    for arch in archs:
        network = extract(query, arch).eval()
        calibrate([network], images)
        scores.append(own_class_nearer(network, train, val))
    return torch.from_numpy(np.stack(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--images", type=int, default=64, help="images of one search")
    parser.add_argument("--reference", type=int, default=1600, help="images of the reference")
    parser.add_argument("--labelled", type=int, default=2000, help="labelled images of each split; 0 leaves labels out")
    parser.add_argument("--size", type=int, default=128, help="pixels of the search's images")
    parser.add_argument("--taps", default="C5")
    arguments = parser.parse_args()
    supernet, taps, size = load_supernet(arguments.supernet), arguments.taps.split(","), arguments.size
    heads = trained_heads(supernet, str(arguments.supernet)) if EMBEDDING in taps else None
    query, key = supernet.query, supernet.key
    archs = one_budget(supernet.info.space, arguments.networks)
    train, val = ImageFolder(arguments.data / "train"), ImageFolder(arguments.data / "val")
    count, many = arguments.images, arguments.reference
    images = shuffled(train, size, 4, 2 * count + many)

    start = time.perf_counter()
    others = Batches(train, images.chosen[2 * count :], size, 50)
    shipped = search(query, key, archs, others, taps, norm="recalibrated", calibration_images=many // 2, heads=heads)
    held_out = rows(shipped, archs)[:, many // 2 :]
    reference = held_out.mean(1)
    halves = correlation(held_out[:, ::2].mean(1), held_out[:, 1::2].mean(1))
    print(f"{len(archs)} networks, {size} pixels, {','.join(taps)}; searches on {count} images")
    print(
        f"reference by distance: {many // 2} images for statistics, {many // 2} for distances; its halves {halves:.3f}"
    )
    labels = None
    if arguments.labelled:
        few = [shuffled(split, 64, 250, arguments.labelled) for split in (train, val)]
        nearer = by_labels(query, archs, others, *few).numpy()
        labels = nearer.mean(1)
        halves = correlation(nearer[:, ::2].mean(1), nearer[:, 1::2].mean(1))
        print(
            f"reference by labels: own class nearer in {100 * labels.min():.1f} to {100 * labels.max():.1f} % of pairs "
            f"(± {100 * nearer[0].std() / len(nearer[0]) ** 0.5:.1f}); its halves {halves:.3f}; with the reference by "
            f"distance {correlation(-labels, reference):.3f}"
        )
    print(f"{time.perf_counter() - start:.0f} s\n\npolicy           stability  by distance  regret  by labels")
    for norm, batch_size in POLICIES:
        found = []
        for half in (images.chosen[:count], images.chosen[count : 2 * count]):
            result = search(query, key, archs, Batches(train, half, size, batch_size), taps, norm=norm, heads=heads)
            found.append(rows(result, archs).mean(1))
        stability = correlation(*found)
        agreement = float(np.mean([correlation(f, reference) for f in found]))
        regret = float(np.mean([reference[f.argmin()] - reference.min() for f in found]) / reference.std())
        labelled = "" if labels is None else f"{np.mean([correlation(f, -labels) for f in found]):11.3f}"
        print(f"{norm:<13}{batch_size:>3}{stability:12.3f}{agreement:13.3f}{regret:8.2f}{labelled}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
