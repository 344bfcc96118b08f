"""What tells, without labels, a supernet that knows something from one that does not?

For every supernet and every folder of images three measures of the teacher, the largest network of the key branch, each
with the least and the greatest of three random starts of the same network in brackets.

- rank: effective rank of the features, as the check before a search takes it;
- crops: of two crops of every image, in other places, sizes and colours, how many of the other images' second crops are
  less like the first than its own, 1 for no mistake and 0.5 for a guess;
- halves: the same by one half of each image in colour and the other in grey.

With labels, to see which of them is right: how often a validation image's own class mean is nearer to it than another
class's, for the teacher, and how the ranking by distance to the teacher at C5 agrees (Spearman) with that by labels,
over networks of all sizes; then the same by distance to the frozen network that taught the supernet, if one did.

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
from rankings import by_labels, distances, drawn, files
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import ImageFolder

from data_plugin import Arch
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.extract import extract
from data_plugin.images.image_folder import ImageFolder as UnlabelledFolder
from data_plugin.ranking.statistics import spearman
from data_plugin.search.external_teacher import PRETRAINING, ExternalTeacher, open_external_teacher
from data_plugin.search.knowledge import IMAGES, STARTS, effective_rank, features
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import Supernet, load_supernet
from data_plugin.supernet.random_start import random_start

CROP = 128
"""Height and width of a crop in pixels."""

Measure = Callable[[DATAResNet], float]


def halves_of(images: Tensor) -> tuple[Tensor, Tensor]:
    middle = images.shape[-1] // 2
    return images[..., :middle], images[..., -middle:].mean(1, keepdim=True).expand(-1, 3, -1, -1)


def crops_of(images: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = zip(*((crop(image, generator), crop(image, generator)) for image in images), strict=True)
    return torch.stack(first), torch.stack(second)


def crop(image: Tensor, generator: torch.Generator) -> Tensor:
    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    side = drawn(0.2, 0.6, 1).sqrt().item()
    size = [int(length * side) for length in image.shape[1:]]
    top, left = (int(drawn(0, whole - part + 1, 1)) for whole, part in zip(image.shape[1:], size, strict=True))
    part = image[None, :, top : top + size[0], left : left + size[1]]
    found = F.interpolate(part, size=(CROP, CROP), mode="bilinear", antialias=True)[0]
    mirrored, in_grey = torch.rand(2, generator=generator).tolist()
    found = found.flip(2) if mirrored < 0.5 else found
    found = found * drawn(0.6, 1.4, 3, 1, 1) + image.std() * drawn(-0.5, 0.5, 3, 1, 1)
    return found.mean(0, keepdim=True).expand(3, -1, -1) if in_grey < 0.2 else found


def apart(first: Tensor, second: Tensor) -> float:
    one, other = (F.normalize(each - each.mean(0), dim=1) for each in (first, second))
    alike = one @ other.T
    return ((alike < alike.diagonal()[:, None]).sum(1) / (len(alike) - 1)).mean().item()


def beside_random(supernet: Supernet, measure: Measure) -> str:
    largest = supernet.info.space.largest
    random = [measure(random_start(largest, seed)) for seed in range(STARTS)]
    return f"{measure(extract(supernet.key, largest)):6.3f} ({min(random):.3f} to {max(random):.3f})"


def measures(files: ImageFiles) -> dict[str, Measure]:
    whole = torch.cat([batch.images for batch in files.batches(16)])

    def told_apart(views: tuple[Tensor, Tensor]) -> Measure:
        return lambda network: apart(*(features(network, each) for each in views))

    return {
        "rank": lambda network: effective_rank(features(network, whole)),
        "crops": told_apart(crops_of(whole)),
        "halves": told_apart(halves_of(whole)),
    }


def with_labels(supernet: Supernet, data: Path, networks: int, labelled: int) -> tuple[float, list[float]]:
    """How often the teacher's own class mean is nearer, and how the ranking by distance agrees with labels: by distance
    to it and, where a frozen network taught the supernet, to that one.
    """
    space = supernet.info.space
    archs: list[Arch] = [space.largest, space.smallest, *space.sample(networks - 2, 0)]
    folders = [ImageFolder(data / split) for split in ("train", "val")]
    chosen = files(folders[0], drawn(folders[0], 464))
    nearer = by_labels(supernet.query, archs, ImageFiles(chosen[64:], 64).batches(50), folders, labelled).mean(1)
    teachers: list[ExternalTeacher | None] = [None]
    if supernet.info.method == "distill":
        teachers.append(open_external_teacher([PRETRAINING], supernet.info))
    agreements = []
    for teacher in teachers:
        result = Searcher(supernet, ("C5",), teacher=teacher).measure(archs[1:], ImageFiles(chosen[:64], 64).batches(4))
        agreements.append(spearman(-distances(result, archs[1:]).mean(1), nearer[1:]))
    return nearer[0], agreements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", nargs="+", required=True)
    parser.add_argument("--images", nargs="*", type=Path, default=[], help="folders of images")
    parser.add_argument("--size", type=int, default=224, help="pixels of these images")
    parser.add_argument("--data", type=Path, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--labelled", type=int, default=1000, help="labelled images of each split")
    arguments = parser.parse_args()
    supernets = {path: load_supernet(path) for path in arguments.supernet}
    for folder in arguments.images:
        found = np.random.default_rng(0).permutation(sorted(UnlabelledFolder(folder).files))[:IMAGES]
        images = ImageFiles(found.tolist(), arguments.size)
        for path, supernet in supernets.items():
            texts = [f"{name} {beside_random(supernet, each)}" for name, each in measures(images).items()]
            print(folder, path, *texts, sep="  ", flush=True)
    for path, supernet in supernets.items() if arguments.data else ():
        label, agreements = with_labels(supernet, arguments.data, arguments.networks, arguments.labelled)
        print(
            f"{path}  own class nearer {label:.3f}  ranking agrees",
            *(f"{each:+.2f}" for each in agreements),
            flush=True,
        )


if __name__ == "__main__":
    main()
