"""What tells, without labels, a supernet that knows something from one that does not?

For every supernet and every folder of images three measures of the teacher, the largest network of the key branch, each
with the least and the greatest of three random starts of the same network in brackets.

- crops: how well it tells images apart by crops of them in other colours, as the check before a search does, and what
  part of the way from its random start it has learnt by that;
- halves: the same by one half of each image in colour and the other in grey;
- rank: effective rank of the features, the exponential of the entropy of their squared singular values.

With labels, to see which of them is right: how often a validation image's own class mean is nearer to it than another
class's, for the teacher, and how the ranking by distance to the teacher at C5 agrees (Spearman) with that by labels,
over networks of all sizes.

    python benchmarks/knowledge.py --supernet a.safetensors b.safetensors --images tiny_imagenet/val voc \\
        --data tiny_imagenet
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from image_files import ImageFiles
from rankings import by_labels, correlation, distances, drawn, files
from torch import Tensor
from torchvision.datasets import ImageFolder

from data_plugin import Arch
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.extract import extract
from data_plugin.images.open import open_images
from data_plugin.search.knowledge import IMAGES, STARTS, apart, crops, features, knowledge_of
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import Supernet, load_supernet
from data_plugin.supernet.random_start import random_start

Measure = Callable[[DATAResNet], float]


def halves_of(images: Tensor) -> tuple[Tensor, Tensor]:
    middle = images.shape[-1] // 2
    return images[..., :middle], images[..., -middle:].mean(1, keepdim=True).expand(-1, 3, -1, -1)


def effective_rank(values: Tensor) -> float:
    shares = torch.linalg.svdvals(values - values.mean(0)).square()
    shares = shares / shares.sum()
    return float(torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum()))


def beside_random(supernet: Supernet, measure: Measure) -> str:
    largest = supernet.info.space.largest
    random = [measure(random_start(largest, seed)) for seed in range(STARTS)]
    return f"{measure(extract(supernet.key, largest)):6.3f} ({min(random):.3f} to {max(random):.3f})"


def measures(files: ImageFiles) -> dict[str, Measure]:
    batches = files.batches(16)
    whole = torch.cat([batch.images for batch in batches])

    def told_apart(views: tuple[Tensor, Tensor]) -> Measure:
        return lambda network: apart(*(features(network, each) for each in views)).mean().item()

    return {
        "crops": told_apart(crops(batches, 0)),
        "halves": told_apart(halves_of(whole)),
        "rank": lambda network: effective_rank(features(network, whole)),
    }


def with_labels(supernet: Supernet, data: Path, networks: int, labelled: int) -> tuple[float, float]:
    """How often the teacher's own class mean is nearer, and how the ranking by distance agrees with labels."""
    space = supernet.info.space
    archs: list[Arch] = [space.largest, space.smallest, *space.sample(networks - 2, 0)]
    folders = [ImageFolder(data / split) for split in ("train", "val")]
    chosen = files(folders[0], drawn(folders[0], 464))
    nearer = by_labels(supernet.query, archs, ImageFiles(chosen[64:], 64).batches(50), folders, labelled).mean(1)
    result = Searcher(supernet, ("C5",)).measure(archs[1:], ImageFiles(chosen[:64], 64).batches(4))
    return nearer[0], correlation(-distances(result, archs[1:]).mean(1), nearer[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", nargs="+", required=True)
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="folders of images")
    parser.add_argument("--size", type=int, default=224, help="pixels of these images")
    parser.add_argument("--data", type=Path, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--labelled", type=int, default=1000, help="labelled images of each split")
    arguments = parser.parse_args()
    supernets = {path: load_supernet(path) for path in arguments.supernet}
    for folder in arguments.images:
        found = np.random.default_rng(0).permutation(sorted(open_images(folder).files))[:IMAGES]
        images = ImageFiles(found.tolist(), arguments.size)
        for path, supernet in supernets.items():
            texts = [f"{name} {beside_random(supernet, each)}" for name, each in measures(images).items()]
            known = knowledge_of(supernet.key, images.batches(16))
            print(folder, path, *texts, f"learnt {known.learnt:.2f}" if known else "", sep="  ", flush=True)
    for path, supernet in supernets.items() if arguments.data else ():
        label, agreement = with_labels(supernet, arguments.data, arguments.networks, arguments.labelled)
        print(f"{path}  own class nearer {label:.3f}  ranking agrees {agreement:+.2f}", flush=True)


if __name__ == "__main__":
    main()
