"""Does a coreset help? Pre-training at equal steps on a target alone, and joined with images chosen from an open set.

Three targets: related classes of Tiny ImageNet (by WordNet), 50 photographs a class, unlabelled. The open set: other
photographs of all 200 classes, those of the target among them, and of the other sets below ``--data``. For each target
and seed one network, the middle one of the space, is trained by SimCLR on

- the target alone,
- the target and a part of the open set: at random, nearest by features of the network that was trained on the target
  alone (SimCore), and nearest by features of the supernet that the package ships,
- the target and the whole open set,

and then measured with the target's labels on further photographs of its classes, which nothing was trained on. What
random weights come to stands beside it. What was trained and measured is kept: the same command may be given until all
is there.

    python benchmarks/simcore.py --data data --steps 1500 --seeds 0 1 --out runs/simcore
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pretrain_options import BATCH, CALIBRATION, cell, linear, nearest
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from data_plugin import SearchSpace, embed_images, load_supernet, pretrain_supernet, select_coreset
from data_plugin.backbones import DynamicResNet
from data_plugin.evaluation.images import LabelledImages
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop
from data_plugin.pretrain.recipe import read_recipe
from data_plugin.pretrain.run import INPUT_FORMAT
from data_plugin.space.search_space import SPACES
from data_plugin.utils.errors import UserError

TARGETS: Mapping[str, str] = {
    "dogs and cats": "n02085620 n02094433 n02099601 n02099712 n02106662 n02113799 n02123045 n02123394 n02124075 "
    "n02125311 n02129165",
    "insects and spiders": "n01770393 n01774384 n01774750 n01784675 n02165456 n02190166 n02206856 n02226429 n02231487 "
    "n02233338 n02236044 n02268443 n02279972 n02281406",
    "vehicles": "n02814533 n02917067 n03100240 n03393912 n03444034 n03447447 n03599486 n03662601 n03670208 n03796401 "
    "n03977966 n04146614 n04285008 n04465501 n04487081",
}
"""Targets by name, and their classes: synsets below canine and feline; arthropod; vehicle."""

PER_CLASS = 50
"""Photographs of a class that the target has; the others of ``tiny_imagenet`` are measured on."""

SPLITS = ("train", "val")

PROBES = {"kNN": nearest, "linear": linear}

COLUMNS = {"kNN": 1, "linear": 1, "precision": 1, "images until the stop": 0, "precision until the stop": 1}
"""What a row has, and with how many digits behind the point."""

OTHERS = ("camvid_cityscapes/leftImg8bit", "voc_mini", "coco_mini")
"""What the open set has beside ``tiny_imagenet_more``."""

WAYS = ("random weights", "target", "+ random", "+ coreset", "+ coreset, shipped", "+ whole")
"""What is trained on, the second before the fourth, whose features choose it."""


class Run(NamedTuple):
    """One training: a target, what is trained on, and the seed."""

    target: str
    way: str
    seed: int


def linked(folder: Path, links: Mapping[str, Path]) -> Path:
    """A folder of links, whole or not there."""
    if not folder.is_dir():
        made = folder.with_name(f".{folder.name}.tmp")
        for name, path in links.items():
            link = made / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
        made.rename(folder)
    return folder


class Experiment:
    """The images, the trainings and what they come to, all below one folder.

    Args:
        data: folder of the data sets.
        out: what is made.
        steps: of every training.
        budget: part of the open set that is chosen.
        recipe: by name.
        space: whose middle network is trained.
    """

    def __init__(self, data: Path, out: Path, steps: int, budget: str, recipe: str, space: str) -> None:
        self.data, self.out, self.steps, self.budget = data, out, steps, budget
        self.recipe = read_recipe(recipe)
        self.space = SearchSpace.of(SPACES[space]().middle)
        sets = ["tiny_imagenet_more/train", *OTHERS]
        self.open = linked(out / "open", {name.replace("/", "_"): data / name for name in sets})

    def images(self, target: str) -> tuple[Path, Path]:
        """The target's images, and those that it is measured on, in a folder for each class."""
        known, asked = {}, {}
        for synset in TARGETS[target].split():
            first, *_ = both = [sorted((self.data / "tiny_imagenet" / split / synset).iterdir()) for split in SPLITS]
            known |= {f"{synset}/{path.name}": path for path in first[:PER_CLASS]}
            asked |= {f"{synset}/{path.name}": path for path in [*first[PER_CLASS:], *both[1]]}
        folder = self.out / target.replace(" ", "_")
        return linked(folder / "known", known), linked(folder / "asked", asked)

    def folder(self, run: Run) -> Path:
        return self.out / run.target.replace(" ", "_") / f"{WAYS.index(run.way)}-{run.seed}"

    def supernet(self, run: Run) -> DynamicResNet:
        """The network that was trained."""
        if run.way == WAYS[0]:
            torch.manual_seed(run.seed)
            return DynamicResNet(self.space)
        folder = self.folder(run)
        path = folder / "supernet.safetensors"
        if not path.is_file():
            images, resume = self.trained_on(run), (folder / "checkpoints" / "last.ckpt").is_file()
            pretrain_supernet(
                images, self.space, out=folder, recipe=self.recipe, steps=self.steps, seed=run.seed, workers=0,
                checkpoint_every=100, resume=resume,
            )  # fmt: skip
        return load_supernet(path).query

    def trained_on(self, run: Run) -> Path:
        known, _ = self.images(run.target)
        if run.way == "target":
            return known
        if run.way == "+ whole":
            return linked(self.folder(run).with_name("whole"), {"open": self.open, "target": known})
        return self.chosen(run, self.budget)

    def chosen(self, run: Run, budget: str | None) -> Path:
        """The list of the target's images and those that were chosen."""
        name = "list" if budget else "list_until_the_stop"
        path = self.folder(run).with_name(f"{self.folder(run).name}_{name}") / "coreset.txt"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            opened, target = self.stores(run)
            select_coreset(opened, target, out=path, budget=budget, random="random" in run.way, seed=run.seed)
        return path

    def stores(self, run: Run) -> tuple[Path, Path]:
        """Features of the open set and of the target, with batch-norm statistics of the open set."""
        if run.way == "+ coreset":
            own = run._replace(way="target")
            self.supernet(own)
            network, place = self.folder(own) / "supernet.safetensors", self.folder(own)
        else:
            network, place = "shipped", self.out
        known, _ = self.images(run.target)
        made = place / "open.store", self.folder(run).parent / f"{place.name}.target.store"
        for store, images in zip(made, (self.open, known), strict=True):
            if not finished(store):
                embed_images(images, out=store, supernet=network, calibrate=self.open, workers=0, resume=store.is_dir())
        return made

    def precision(self, path: Path, target: str) -> float:
        """Which part of the images that were chosen, in %, are of the target's classes."""
        chosen = [Path(line).parent.name for line in path.read_text().splitlines() if "/open/" in line]
        classes = set(TARGETS[target].split())
        return 100 * sum(name in classes for name in chosen) / len(chosen)

    def measure(self, run: Run) -> dict[str, float]:
        """Accuracy in % on the target, and what was chosen for it."""
        path = self.folder(run).with_suffix(".json")
        if not path.is_file():
            known, asked = self.images(run.target)
            look = centre_crop(self.recipe.image_size, INPUT_FORMAT)
            statistics = calibration_images(known, look, CALIBRATION, BATCH, seed=0)
            arch = self.space.largest
            networks = CalibratedNetworks(self.supernet(run), [arch], statistics)
            (bank, labels), (queries, own) = (
                labelled_features(networks, DataLoader(LabelledImages(ImageFolder(folder), look), BATCH))
                for folder in (known, asked)
            )
            found = {name: probe(bank[arch], labels, queries[arch], own) for name, probe in PROBES.items()}
            if run.way.startswith("+") and run.way != "+ whole":
                found["precision"] = self.precision(self.chosen(run, self.budget), run.target)
            if "coreset" in run.way:
                until = self.chosen(run, None)
                found["precision until the stop"] = self.precision(until, run.target)
                found["images until the stop"] = json.loads(until.with_name("selection.json").read_text())["images"]
            path.write_text(json.dumps(found, indent=1) + "\n")
        return json.loads(path.read_text())


def finished(store: Path) -> bool:
    try:
        EmbeddingStore(store)
    except UserError:
        return False
    return True


def table(found: Mapping[Run, Mapping[str, float]], target: str) -> str:
    """A row for everything that is trained on, mean and range over the seeds."""
    lines = [f"| {target} | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    for way in WAYS:
        runs = [each for run, each in found.items() if (run.target, run.way) == (target, way)]
        cells = [
            cell((each[name] for each in runs), digits) if name in runs[0] else "" for name, digits in COLUMNS.items()
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_imagenet and the other data sets")
    parser.add_argument("--steps", type=int, default=1_500, help="of every training (default: %(default)s)")
    parser.add_argument("--budget", default="5%", help="part of the open set that is chosen (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--recipe", default="micro_simclr")
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(
        arguments.data, arguments.out, arguments.steps, arguments.budget, arguments.recipe, arguments.space
    )
    found = {}
    for seed in arguments.seeds:
        for target in arguments.targets:
            for way in WAYS:
                run = Run(target, way, seed)
                print(*run, flush=True)
                found[run] = experiment.measure(run)
    for target in arguments.targets:
        print(f"\n{table(found, target)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
