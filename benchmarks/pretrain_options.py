"""What makes weight sharing work? Options of a recipe beside the recipe as it is, equal steps and images.

Each option is trained with every seed, then networks of all sizes are measured on frozen features of photographs of the
training's size: nearest neighbours and, for three of them, a linear probe (logistic regression), on the classes of the
training's own data set and, with ``--crops`` (``benchmarks/object_crops.py``), on objects of another one. Trainings
that were stopped go on, and what was measured is not measured again: the same command may be given until all is there.

    python benchmarks/pretrain_options.py --data tiny_imagenet --crops crops --steps 2500 --seeds 0 1 --out runs/options

Per option: mean over the seeds (and, in brackets, the least and the greatest) of the accuracy in % of the smallest, the
middle and the largest network, and Spearman's rank correlation of FLOPs with nearest neighbours over 16 networks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from data_plugin import Arch, SearchSpace, load_supernet, pretrain_supernet
from data_plugin.evaluation.images import LabelledImages
from data_plugin.evaluation.knn import knn_accuracy
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop
from data_plugin.ranking.statistics import spearman
from data_plugin.space.cost import flops

OPTIONS: Mapping[str, Sequence[str]] = {
    "plain": [],
    "lr-0.01": ["lr=0.01"],
    "lr-0.004": ["lr=0.004"],
    "sandwich": ["sampler=sandwich"],
    "guided": ["guide=largest"],
    "sandwich-guided": ["sampler=sandwich", "guide=largest"],
    "slow-start": ["slow_start=0.2"],
    "others-weigh-half": ["others_weight=0.5"],
    "key-momentum-to-1": ["key_momentum_end=1.0"],
    "key-momentum-from-0.9": ["key_momentum=0.9", "key_momentum_end=0.99"],
    "no-decay-of-norms": ["decay_norms=false"],
    "queue-4096": ["settings.queue=4096"],
    "jitter-1": ["settings.jitter=1.0"],
    "64-pixels": ["image_size=64"],
    "64-pixel-keys": ["image_size=64", "settings.query_size=0.625"],
    "symmetric": ["method=mocov2_symmetric"],
}
"""Options by name: what they change of the recipe."""

NEIGHBOURS = 20
"""How many neighbours vote."""

CALIBRATION, BATCH = 2_048, 256
"""Images that give a network its batch-norm statistics, as ``data-evaluate`` takes them."""


class Run(NamedTuple):
    """One training: an option, its length and its seed."""

    option: str
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.option}-{self.steps}-{self.seed}"


def nearest(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    return 100 * knn_accuracy(bank, bank_labels, queries, labels, NEIGHBOURS).top1


def linear(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    return 100 * float(probe.fit(bank, bank_labels).score(queries, labels))


def networks(space: SearchSpace) -> list[Arch]:
    """The smallest, the middle and the largest, and 13 random ones."""
    return [space.smallest, space.middle, space.largest, *space.sample(13, 0)]


def train(run: Run, arguments: argparse.Namespace) -> Path:
    folder = arguments.out / str(run)
    supernet = folder / "supernet.safetensors"
    if not supernet.is_file():
        print(run, flush=True)
        pretrain_supernet(
            arguments.data / "train",
            arguments.space,
            out=folder,
            recipe=arguments.recipe,
            changes=OPTIONS[run.option],
            steps=run.steps,
            seed=run.seed,
            workers=0,
            resume=(folder / "checkpoints" / "last.ckpt").is_file(),
        )
    return supernet


def measure(supernet: Path, folders: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Accuracy of every network by ``probe, data set``."""
    found = supernet.with_name("accuracy.json")
    if not found.is_file():
        loaded = load_supernet(supernet)
        query, size = loaded.query, loaded.info.training["image_size"]
        archs = networks(query.space)
        accuracy = {}
        look = centre_crop(size, loaded.info.input_format)
        for name, folder in folders.items():
            statistics = calibration_images(folder / "train", look, CALIBRATION, BATCH, seed=0, workers=0)
            calibrated = CalibratedNetworks(query, archs, statistics)
            (known, labels), (asked, own) = (
                labelled_features(calibrated, DataLoader(LabelledImages(ImageFolder(folder / split), look), BATCH))
                for split in ("train", "val")
            )
            accuracy[f"kNN, {name}"] = {str(a): nearest(known[a], labels, asked[a], own) for a in archs}
            accuracy[f"linear, {name}"] = {str(a): linear(known[a], labels, asked[a], own) for a in archs[:3]}
        found.write_text(json.dumps(accuracy, indent=1) + "\n")
    return json.loads(found.read_text())


def cell(values: Iterable[float], digits: int) -> str:
    values = list(values)
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def rank(accuracy: Mapping[str, float]) -> float:
    costs = [flops(Arch.parse(name)) for name in accuracy]
    return spearman(np.array(costs), np.array(list(accuracy.values())))


def row(what: str, accuracies: Sequence[Mapping[str, float]]) -> str:
    """Beginning with the three networks, which every accuracy begins with."""
    sizes = [cell(three, 1) for three in zip(*([*each.values()][:3] for each in accuracies), strict=True)]
    ranks = [cell(map(rank, accuracies), 2)] if len(accuracies[0]) > 3 else []
    return f"| {' | '.join([what, *sizes, *ranks])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and val/CLASS")
    parser.add_argument("--crops", type=Path, help="the same of other photographs, which are measured on alone")
    parser.add_argument("--space", default="micro")
    parser.add_argument("--recipe", default="micro")
    parser.add_argument("--steps", type=int, nargs="+", default=[2_500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folders = {"own": arguments.data} | ({"other": arguments.crops} if arguments.crops else {})
    found: dict[tuple[str, int], list[dict[str, dict[str, float]]]] = {}
    for steps in arguments.steps:
        for seed in arguments.seeds:
            for option in arguments.options:
                accuracy = measure(train(Run(option, steps, seed), arguments), folders)
                found.setdefault((option, steps), []).append(accuracy)
    for kind in (f"{probe}, {name}" for name in folders for probe in ("kNN", "linear")):
        print(f"\n{kind}\n")
        for (option, steps), accuracies in found.items():
            print(row(f"{option}, {steps:,}", [each[kind] for each in accuracies]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
