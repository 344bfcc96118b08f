"""Which tap, under which batch-norm policy, ranks networks as labels do?

Networks of one budget are ranked in every way on the same disjoint sets of few images, and each ranking is compared
with that by labels: how often a validation image's own class mean is nearer than another class's, in pooled C5 of
networks with statistics of images that no search sees. Printed are the searches' rank correlation among each other and
with the labels, the mean of the latter and its least and greatest. The last column bounds how far the mean is from the
first row's in 90 % of draws, with replacement, of networks and of validation images. What the costs alone say of the
networks stands below.

    python benchmarks/taps.py --supernet supernet.safetensors --data tiny_imagenet
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from image_files import ImageFiles
from rankings import by_labels, distances, drawn, files, halves, one_budget
from torchvision.datasets import ImageFolder

from data_plugin.ranking.statistics import spearman
from data_plugin.search.searcher import Searcher
from data_plugin.space import cost
from data_plugin.supernet.checkpoint import load_supernet

MAPS = "C2,C3,C4,C5"

WAYS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("C5", 4, {"norm": "batch"}),
    ("C5", 16, {"norm": "batch"}),
    ("C5", 4, {"norm": "running"}),
    ("z", 4, {"norm": "batch"}),
    ("z", 16, {"norm": "batch"}),
    ("z", 4, {"norm": "recalibrated"}),
    ("z", 4, {"norm": "running"}),
    (MAPS, 4, {"norm": "batch", "reduction": "mean"}),
    (MAPS, 4, {"norm": "batch", "reduction": "sum"}),
)
"""Taps, images a batch, and how to search."""


def draws(networks: int, images: int, count: int = 500) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Networks and images drawn with replacement, the same every time."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.integers(networks, size=networks), generator.integers(images, size=images)


def agreement(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Correlation of each search, (searches, networks), with the ranking by labels, (searches,)."""
    return np.array([spearman(-scores, labels) for scores in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--searches", type=int, default=4, help="at least 2")
    parser.add_argument("--images", type=int, default=64, help="images of one search")
    parser.add_argument("--statistics", type=int, default=400, help="images for statistics of the reference")
    parser.add_argument("--labelled", type=int, default=2000, help="labelled images of each split")
    parser.add_argument("--size", type=int, default=64, help="pixels of the search's images")
    arguments = parser.parse_args()
    supernet, count = load_supernet(arguments.supernet), arguments.images
    archs = one_budget(supernet.info.space, arguments.networks)
    folders = [ImageFolder(arguments.data / split) for split in ("train", "val")]
    rest, *searched = np.split(
        np.array(files(folders[0], drawn(folders[0], arguments.statistics + arguments.searches * count))),
        range(arguments.statistics, arguments.statistics + arguments.searches * count, count),
    )
    statistics = ImageFiles(rest, arguments.size).batches(50)
    nearer = by_labels(supernet.query, archs, statistics, folders, arguments.labelled)
    labels, error = nearer.mean(1), nearer[0].std() / nearer.shape[1] ** 0.5
    print(
        f"{len(archs)} networks, {arguments.searches} searches on {count} images of {arguments.size} pixels each\n"
        f"by labels: own class nearer in {100 * labels.min():.1f} to {100 * labels.max():.1f} % of pairs "
        f"(± {100 * error:.1f}); halves agree at {halves(nearer):.3f}\n\n"
        "| taps | images a batch | | stability | by labels | least to greatest | beyond the first row |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    again = list(draws(*nearer.shape))
    first = None
    for taps, batch_size, options in WAYS:
        searcher = Searcher(supernet, taps.split(","), **options)
        results = (searcher.measure(archs, ImageFiles(each, arguments.size).batches(batch_size)) for each in searched)
        found = np.stack([distances(result, archs).mean(1) for result in results])
        stability = np.mean([spearman(*pair) for pair in itertools.combinations(found, 2)])
        agrees = agreement(found, labels)
        agrees_again = np.array([agreement(found[:, a], nearer[a][:, i].mean(1)).mean() for a, i in again])
        first = agrees_again if first is None else first
        low, high = np.quantile(agrees_again - first, [0.05, 0.95])
        print(
            f"| {taps} | {batch_size} | {', '.join(options.values())} | {stability:.3f} | {agrees.mean():.3f} | "
            f"{agrees.min():.3f} to {agrees.max():.3f} | {low:+.3f} to {high:+.3f} |",
            flush=True,
        )
    for name, costs in {"multiply-accumulates": cost.flops, "parameters": cost.params}.items():
        print(f"more {name} first: {spearman(np.array([costs(arch) for arch in archs]), labels):.3f}")


if __name__ == "__main__":
    main()
