"""Do sub-nets help that each see one part of the data? Routed sub-nets beside one network of all images, equal steps.

Eight tasks: related classes of Tiny ImageNet, each measured on photographs that nothing was trained on, and, with
``--crops`` (``benchmarks/object_crops.py``), a ninth of objects of another data set. One network, the middle one of the
space, is trained by SimSiam on 20,000 photographs

- whole (*unified*), with batch-norm statistics of as many images as a sub-net has of a batch,
- as sub-nets on parts of images alike (``data-cluster`` of features of the shipped supernet), and
- as sub-nets on parts of the same sizes dealt at random, the control.

With ``--alone`` also networks of their own, each trained on one part alone for all of the steps: the part that a task
is routed to, and a part of the random ones. They show what there is to gain where nothing is shared.

A task is routed without labels by where most of its images fall, then nearest neighbours and a linear probe are
measured of that sub-net, of all, and so of the best in hindsight. What was trained and measured is kept: the same
command may be given until all is there.

    python benchmarks/sdr.py --data data --crops crops --levels 2 --steps 1500 --seeds 0 1 --out runs/sdr

What might help where that does not, each in a folder of its own: more steps once the sub-nets are apart (``--opts
'phases=[1,1,4]'``), more channels of their own (``--private 2``), a start from the network that a trained supernet has,
and its method (``--space mini --init shipped --recipe micro_distill --opts codes_per_batch=2 lr=0.0005``).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pretrain_options import BATCH, CALIBRATION, cell, linear, nearest
from simcore import finished, linked
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from data_plugin import SearchSpace, cluster_store, embed_images, load_supernet, pretrain_supernet
from data_plugin.backbones import DynamicResNet, RoutedResNet, extract, grouped
from data_plugin.evaluation.images import LabelledImages
from data_plugin.features.codes import Codes
from data_plugin.features.pooled import CalibratedNetworks
from data_plugin.features.store import EmbeddingStore
from data_plugin.features.sub_nets import CalibratedSubNets
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop
from data_plugin.pretrain.recipe import Recipe, read_recipe
from data_plugin.pretrain.run import INPUT_FORMAT
from data_plugin.routing.votes import Votes
from data_plugin.space.search_space import SPACES
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.supernet.checkpoint import load_routed_supernet
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.initialise import start_from

TASKS: Mapping[str, str] = {
    "water and cold blood": "n01443537 n01629819 n01641577 n01644900 n01698640 n01742172 n01768244 n01855672 n01910747 "
    "n01917289 n01944390 n01945685 n01950731 n01983481 n01984695 n02002724 n02056570 n02058221 n02074367 n02321529",
    "mammals": "n01882714 n02085620 n02094433 n02099601 n02099712 n02106662 n02113799 n02123045 n02123394 n02124075 "
    "n02125311 n02129165 n02132136 n02364673 n02395406 n02403003 n02410509 n02415577 n02423022 n02437312",
    "insects and spiders": "n01770393 n01774384 n01774750 n01784675 n02165456 n02190166 n02206856 n02226429 n02231487 "
    "n02233338 n02236044 n02268443 n02279972 n02281406",
    "vehicles and machines": "n02814533 n02917067 n02950826 n03100240 n03126707 n03393912 n03444034 n03447447 "
    "n03599486 n03649909 n03662601 n03670208 n03796401 n03977966 n04008634 n04146614 n04285008 n04465501 n04487081",
    "clothes": "n02669723 n02730930 n02769748 n02837789 n02883205 n02963159 n03026506 n03404251 n03424325 n03617480 "
    "n03763968 n03770439 n03814639 n03980874 n04133789 n04251144 n04254777 n04259630 n04356056 n04371430 n04507155 "
    "n04532106",
    "food and kitchen": "n03400231 n04398044 n04596742 n04597913 n07579787 n07583066 n07614500 n07615774 n07695742 "
    "n07711569 n07715103 n07720875 n07734744 n07747607 n07749582 n07753592 n07768694 n07871810 n07873807 n07875152 "
    "n07920052 n12267677",
    "buildings and landscape": "n02699494 n02788148 n02793495 n02814860 n02843684 n03042490 n03160309 n03355925 "
    "n03388043 n03733131 n03837869 n03930313 n04311004 n04366367 n04417672 n04486054 n04532670 n04562935 n09193705 "
    "n09246464 n09256479 n09332890 n09428293",
    "household": "n02795169 n02808440 n02815834 n02823428 n02906734 n02909870 n02948072 n02988304 n03014705 n03085013 "
    "n03179701 n03201208 n03584254 n03637318 n03902125 n03937543 n03983396 n04070727 n04074963 n04099969 n04265275 "
    "n04328186 n04560804",
}
"""Tasks by name, and their classes."""

BANK = 100
"""Photographs of a class that a probe learns from; the others are measured on."""

PROBES = {"kNN": nearest, "linear": linear}

SUB_NETS, CONTROL = "sub-nets", "sub-nets, random parts"
WAYS = ("weights at the start", "unified", SUB_NETS, CONTROL)
"""What is measured."""

ROUTED, ALONE, ALONE_AT_RANDOM = "sub-net, routed", "alone on the part", "alone on a random part"
"""What rows of the table are called."""


class Experiment:
    """Images, codes, trainings and what they come to, all below one folder.

    Args:
        data: folder of tiny_imagenet and tiny_imagenet_more.
        crops: folder of ``train`` and ``val`` of other images, or None.
        out: what is made.
        levels: of the codes: 4 sub-nets, 16, 64, ...
        steps: of every training.
        space: whose middle network is trained.
        init: the supernet that it starts from; None has random weights.
        recipe: of the sub-nets, with the number of codes in a batch; the unified network's is the same without.
    """

    def __init__(
        self,
        data: Path,
        crops: Path | None,
        out: Path,
        levels: int,
        steps: int,
        space: str,
        init: str | None,
        recipe: Recipe,
    ) -> None:
        self.photographs, self.out, self.levels, self.steps = data / "tiny_imagenet" / "train", out, levels, steps
        self.space = SearchSpace.of(SPACES[space]().middle)
        self.init = None if init is None else self._start(init)
        self.parted, self.whole = recipe, replace(recipe, codes_per_batch=None, phases=None)
        self.size, self.parts = self.parted.image_size, self.parted.codes_per_batch or 1
        self.tasks = {name: self._task(data, name) for name in TASKS}
        if crops is not None:
            self.tasks["objects of other photographs"] = crops / "train", crops / "val"

    def _start(self, supernet: str) -> Path:
        """The weights that the network has in a supernet."""
        save_backbone(self.out / "start", extract(load_supernet(supernet).query, self.space.largest))
        return self.out / "start" / PTH_FILE

    def _task(self, data: Path, name: str) -> tuple[Path, Path]:
        """What a probe learns from, and what it is measured on."""
        bank, asked = {}, {}
        for synset in TASKS[name].split():
            more = sorted((data / "tiny_imagenet_more" / "train" / synset).iterdir())
            val = sorted((data / "tiny_imagenet" / "val" / synset).iterdir())
            bank |= {f"{synset}/{path.name}": path for path in more[:BANK]}
            asked |= {f"{synset}/{path.name}": path for path in [*more[BANK:], *val]}
        folder = self.out / "tasks" / name.replace(" ", "_")
        return linked(folder / "bank", bank), linked(folder / "asked", asked)

    def store(self, images: Path, name: str) -> Path:
        folder = self.out / "stores" / name.replace(" ", "_")
        if not finished(folder):
            folder.parent.mkdir(exist_ok=True)
            embed_images(
                images,
                out=folder,
                supernet="shipped",
                calibrate=self.photographs,
                workers=0,
                resume=(folder / "store.json").is_file(),
            )
        return folder

    def codes(self, way: str, seed: int) -> Codes:
        folder = self.out / f"codes-{WAYS.index(way)}-{self.levels}-{seed}"
        if not (folder / "codes.json").is_file():
            store = self.store(self.photographs, "photographs")
            cluster_store(store, out=folder, levels=self.levels, random=way == CONTROL, seed=seed)
        return Codes.read(folder)

    def trained(self, way: str, seed: int) -> DynamicResNet | RoutedResNet:
        """What was trained: one network or, with groups, all sub-nets."""
        if way == WAYS[0]:
            torch.manual_seed(seed)
            network = DynamicResNet(self.space)
            if self.init is not None:
                start_from(network, read_backbone(self.init))
            return network
        parted = way in (SUB_NETS, CONTROL)
        folder = self.out / f"trained-{WAYS.index(way)}-{self.levels if parted else 0}-{seed}"
        path = folder / "supernet.safetensors"
        if not path.is_file():
            self._pretrain(self.photographs, folder, seed, self.codes(way, seed).folder if parted else None)
        return (load_routed_supernet if parted else load_supernet)(path).query

    def _pretrain(self, images: Path, folder: Path, seed: int, codes: Path | None = None) -> None:
        """Train sub-nets on the parts that codes tell, or one network."""
        pretrain_supernet(
            images,
            self.space,
            out=folder,
            recipe=self.whole if codes is None else self.parted,
            init=self.init,
            codes=codes,
            accumulate=self.parts if codes is None else 1,
            steps=self.steps,
            seed=seed,
            workers=0,
            checkpoint_every=100,
            resume=(folder / "checkpoints" / "last.ckpt").is_file(),
        )

    def alone(self, task: str, way: str, seed: int) -> dict[str, float]:
        """Accuracy in % on a task by probe, of a network that was trained on one part alone.

        Args:
            task: the task.
            way: whose parts; of sub-nets' it is the one that the task is routed to, of the control's the first.
            seed: of codes and training.
        """
        codes = self.codes(way, seed)
        part = self.route(task, codes) if way == SUB_NETS else (0,) * self.levels
        folder = self.out / f"alone-{WAYS.index(way)}-{seed}-{written(part)}"
        file = folder / f"accuracy-{task.replace(' ', '_')}.json"
        if not file.is_file():
            names = [name for name, digits in zip(codes.names, codes.digits, strict=True) if tuple(digits) == part]
            path = folder / "supernet.safetensors"
            if not path.is_file():
                print("alone", way, part, seed, flush=True)
                images = linked(folder / "images", {name: self.photographs / name for name in names})
                self._pretrain(images, folder, seed)
            found = self._accuracies(load_supernet(path).query, *self.tasks[task])
            file.write_text(json.dumps({probe: found[probe][""] for probe in PROBES}, indent=1) + "\n")
        return json.loads(file.read_text())

    def route(self, task: str, codes: Codes) -> tuple[int, ...]:
        """The sub-net that most of a task's images fall to."""
        bank = EmbeddingStore(self.store(self.tasks[task][0], f"task {task}"))
        features = bank.features(range(bank.images)).astype(np.float64)
        return Votes.of(codes.assign(features), codes.header.children).first

    def measure(self, way: str, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        """Accuracy in % by task, probe and path."""
        path = self.out / f"accuracy-{WAYS.index(way)}-{self.levels}-{seed}.json"
        if not path.is_file():
            network = self.trained(way, seed)
            found = {task: self._accuracies(network, *folders) for task, folders in self.tasks.items()}
            path.write_text(json.dumps(found, indent=1) + "\n")
        return json.loads(path.read_text())

    def _accuracies(
        self, network: DynamicResNet | RoutedResNet, bank: Path, asked: Path
    ) -> dict[str, dict[str, float]]:
        look = centre_crop(self.size, INPUT_FORMAT)
        images, labels = zip(*(read(folder, look) for folder in (bank, asked)), strict=True)
        statistics = calibration_images(bank, look, CALIBRATION, BATCH, seed=0)
        paths, features_of = self._calibrated(network, statistics)
        known, queries = (torch.cat([features_of(part) for part in each.split(BATCH)], dim=1) for each in images)
        return {
            name: {
                written(path): probe(one, labels[0], other, labels[1])
                for path, one, other in zip(paths, known, queries, strict=True)
            }
            for name, probe in PROBES.items()
        }

    def _calibrated(
        self, network: DynamicResNet | RoutedResNet, statistics: Iterable[Tensor]
    ) -> tuple[Sequence[tuple[int, ...]], Callable[[Tensor], Tensor]]:
        """The paths of the sub-nets, one of no digits where there are none, and what makes their features of images."""
        arch = self.space.largest
        if isinstance(network, RoutedResNet):
            sub_nets = CalibratedSubNets(network, arch, statistics)
            return sub_nets.paths, sub_nets.features
        alone = CalibratedNetworks(network, [arch], statistics)
        return [()], lambda images: alone.features(images)[arch][None]


def read(folder: Path, look: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) of a folder, and their labels (N,)."""
    images, labels = zip(*DataLoader(LabelledImages(ImageFolder(folder), look), BATCH), strict=True)
    return torch.cat(images), torch.cat(labels)


def written(path: Sequence[int]) -> str:
    return ",".join(map(str, path))


def rows(experiment: Experiment, seeds: Sequence[int], probe: str, alone: bool) -> list[str]:
    """A line for everything that is compared, with the mean and range over the seeds, by task and over all."""
    lines: dict[str, list[list[float]]] = {}
    picked: list[bool] = []
    for seed in seeds:
        found = {way: experiment.measure(way, seed) for way in WAYS}
        codes = experiment.codes(SUB_NETS, seed)

        def add(name: str, values: list[float]) -> None:
            lines.setdefault(name, []).append([*values, float(np.mean(values))])

        for way in WAYS[:2]:
            add(way, [found[way][task][probe][""] for task in experiment.tasks])
        of = {task: found[SUB_NETS][task][probe] for task in experiment.tasks}
        routed = {task: of[task][written(experiment.route(task, codes))] for task in experiment.tasks}
        add(ROUTED, list(routed.values()))
        add("sub-nets, mean of all", [float(np.mean(list(each.values()))) for each in of.values()])
        add("sub-net, best in hindsight", [max(each.values()) for each in of.values()])
        control = [list(found[CONTROL][task][probe].values()) for task in experiment.tasks]
        add("random parts, mean of all", [float(np.mean(each)) for each in control])
        add("random parts, best in hindsight", [max(each) for each in control])
        for way, name in ((SUB_NETS, ALONE), (CONTROL, ALONE_AT_RANDOM)) if alone else ():
            add(name, [experiment.alone(task, way, seed)[probe] for task in experiment.tasks])
        for task, accuracy in routed.items():
            asked = len(ImageFolder(experiment.tasks[task][1]))
            best = max(of[task].values())
            picked.append(best - accuracy <= 100 * (best / 100 * (1 - best / 100) / asked) ** 0.5)
    table = [
        f"| {probe} | {' | '.join([*experiment.tasks, 'mean'])} |",
        "| --- |" + " --- |" * (len(experiment.tasks) + 1),
    ]
    for name, values in lines.items():
        table.append(f"| {name} | {' | '.join(cell(column, 1) for column in zip(*values, strict=True))} |")
    pairs = [(ROUTED, "unified"), (ALONE, "unified"), (ALONE, ALONE_AT_RANDOM)]
    return [
        *table,
        "",
        f"routed within one standard error of the best: {sum(picked)} of {len(picked)} times",
        *(ahead(one, other, lines[one], lines[other]) for one, other in pairs if one in lines),
    ]


def ahead(one: str, other: str, values: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> str:
    """By how much one line (seeds, tasks and their mean) is ahead of another, and how sure the tasks are of it."""
    apart = (np.mean(values, axis=0) - np.mean(others, axis=0))[:-1]
    error = apart.std(ddof=1) / len(apart) ** 0.5
    return f"{one}, ahead of {other} by: {apart.mean():.1f} (standard error over the tasks {error:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_imagenet and tiny_imagenet_more")
    parser.add_argument("--crops", type=Path, help="folder with train/CLASS and val/CLASS of other photographs")
    parser.add_argument("--levels", type=int, default=2, help="16 sub-nets with 2, 64 with 3 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1_500, help="of every training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--init", help="supernet that every training starts from (default: random weights)")
    parser.add_argument(
        "--private", type=int, default=grouped.PRIVATE, help="a sub-net has 1 in so many channels alone"
    )
    parser.add_argument("--recipe", default="micro_sdr", help="of the sub-nets (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="train networks of their own on single parts, too")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    grouped.PRIVATE = arguments.private
    experiment = Experiment(
        arguments.data,
        arguments.crops,
        arguments.out,
        arguments.levels,
        arguments.steps,
        arguments.space,
        arguments.init,
        read_recipe(arguments.recipe, arguments.opts),
    )
    for seed, way in itertools.product(arguments.seeds, WAYS):
        print(way, seed, flush=True)
        experiment.measure(way, seed)
    for probe in PROBES:
        print("\n" + "\n".join(rows(experiment, arguments.seeds, probe, arguments.alone)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
