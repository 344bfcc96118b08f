"""Which batch-norm policy ranks networks best in a search?

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
from pathlib import Path

import numpy as np
from image_files import ImageFiles
from rankings import by_labels, distances, drawn, files, halves, one_budget
from torchvision.datasets import ImageFolder

from data_plugin.ranking.statistics import spearman
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import load_supernet

POLICIES = (("batch", 4), ("batch", 16), ("recalibrated", 4), ("running", 4))
"""Policies with images a batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--images", type=int, default=64, help="images of one search")
    parser.add_argument("--reference", type=int, default=1600, help="images of the reference")
    parser.add_argument("--labelled", type=int, default=2000, help="labelled images of each split; 0 leaves labels out")
    parser.add_argument("--size", type=int, default=128, help="pixels of the search's images")
    parser.add_argument("--taps", default="C5")
    arguments = parser.parse_args()
    supernet, taps, size = load_supernet(arguments.supernet), arguments.taps.split(","), arguments.size
    archs = one_budget(supernet.info.space, arguments.networks)
    folders = [ImageFolder(arguments.data / split) for split in ("train", "val")]
    count, many = arguments.images, arguments.reference
    images = files(folders[0], drawn(folders[0], 2 * count + many))

    start = time.perf_counter()
    others = ImageFiles(images[2 * count :], size).batches(50)
    shipped = Searcher(supernet, taps, norm="recalibrated", calibration_images=many // 2).measure(archs, others)
    held_out = distances(shipped, archs)[:, many // 2 :]
    reference = held_out.mean(1)
    print(f"{len(archs)} networks, {size} pixels, {','.join(taps)}; searches on {count} images")
    print(
        f"reference by distance: {many // 2} images for statistics, {many // 2} for distances; "
        f"its halves {halves(held_out):.3f}"
    )
    labels = None
    if arguments.labelled:
        statistics = others.only(range(len(others) // 2))
        nearer = by_labels(supernet.query, archs, statistics, folders, arguments.labelled)
        labels = nearer.mean(1)
        print(
            f"reference by labels: own class nearer in {100 * labels.min():.1f} to {100 * labels.max():.1f} % of pairs "
            f"(± {100 * nearer[0].std() / len(nearer[0]) ** 0.5:.1f}); its halves {halves(nearer):.3f}; with the "
            f"reference by distance {spearman(-labels, reference):.3f}"
        )
    print(f"{time.perf_counter() - start:.0f} s\n\npolicy           stability  by distance  regret  by labels")
    for norm, batch_size in POLICIES:
        found = []
        for half in (images[:count], images[count : 2 * count]):
            batches = ImageFiles(half, size).batches(batch_size)
            found.append(distances(Searcher(supernet, taps, norm=norm).measure(archs, batches), archs).mean(1))
        stability = spearman(*found)
        agreement = float(np.mean([spearman(f, reference) for f in found]))
        regret = float(np.mean([reference[f.argmin()] - reference.min() for f in found]) / reference.std())
        labelled = "" if labels is None else f"{np.mean([spearman(f, -labels) for f in found]):11.3f}"
        print(f"{norm:<13}{batch_size:>3}{stability:12.3f}{agreement:13.3f}{regret:8.2f}{labelled}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
