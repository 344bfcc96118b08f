"""What lower precision and drawn relation rows change in a search's ranking, on a trained supernet and real images.

Networks of one budget are ranked exactly in float32 and then with each approximation on the same images; beside the
rank correlation stand how many of the five closest remain, how much further the approximate winner is than the exact
one (as a part of the networks' standard deviation), and the CPU time against the exact search's. The last line ranks
exactly on other images of the data set: what an approximation should be compared with.

    python benchmarks/search_approximations.py --supernet supernet.safetensors --images JPEGImages
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_files import ImageFiles
from rankings import distances, one_budget
from search import timed

from data_plugin import Arch
from data_plugin.images.batch import ImageBatches
from data_plugin.ranking.statistics import spearman
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import Supernet, load_supernet

APPROXIMATIONS = {
    "bfloat16 features": {"precision": "bfloat16"},
    "float16 features": {"precision": "float16"},
    "16 rows": {"rows": 16},
    "64 rows": {"rows": 64},
    "256 rows": {"rows": 256},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--count", type=int, default=16, help="images of a search")
    parser.add_argument("--networks", type=int, default=48)
    parser.add_argument("--size", type=int, default=160, help="pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--taps", nargs="+", default=["C5", "C2,C3,C4,C5"])
    arguments = parser.parse_args()
    supernet = load_supernet(arguments.supernet)
    for branch in (supernet.query, supernet.key):
        branch.to(arguments.device)
    archs = one_budget(supernet.info.space, arguments.networks)
    files = sorted(arguments.images.glob("*.jpg"))
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[: 2 * arguments.count]]
    same, others = (
        ImageFiles(part, arguments.size).batches(4) for part in (chosen[: arguments.count], chosen[arguments.count :])
    )

    print(f"{len(archs)} networks, {arguments.count} images of {arguments.size} pixels")
    for taps in arguments.taps:
        print(f"\n{taps}")
        print(f"{'':<20}{'Spearman':>10}{'of top 5':>10}{'regret':>8}{'time':>8}")
        for name, row in compare(supernet, archs, same, others, taps.split(",")):
            ratio = row["seconds"] / row["exact seconds"]
            figures = f"{row['spearman']:10.4f}{row['of top 5']:10}{row['regret']:8.2f}{ratio:8.2f}"
            print(f"{name:<20}{figures}", flush=True)


def compare(
    supernet: Supernet, archs: Sequence[Arch], same: ImageBatches, others: ImageBatches, taps: Sequence[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Every approximation on the same images, and the exact search on others, against the exact search.

    Args:
        supernet: the supernet, on the device to compute on.
        archs: the networks.
        same: the images.
        others: as many other images.
        taps: what is compared.
    """
    device = next(supernet.query.parameters()).device

    def scores(batches: ImageBatches, **options: Any) -> tuple[np.ndarray, float]:
        result, seconds = timed(lambda: Searcher(supernet, taps, **options).measure(archs, batches), device)
        return distances(result, archs).mean(1), seconds

    if device.type == "cuda":
        scores(same)  # what a process spends once
    exact, seconds = scores(same)
    for name, options in {**APPROXIMATIONS, "other images": {}}.items():
        found, took = scores(others if name == "other images" else same, **options)
        yield (
            name,
            {
                "spearman": spearman(exact, found),
                "of top 5": len(set(exact.argsort()[:5].tolist()) & set(found.argsort()[:5].tolist())),
                "regret": float((exact[found.argmin()] - exact.min()) / exact.std()),
                "seconds": took,
                "exact seconds": seconds,
            },
        )


if __name__ == "__main__":
    main()
