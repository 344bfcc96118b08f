"""Pre-training of sub-nets against that of one supernet: seconds of a step, weights.

All train with the same recipe on the same views, step by step in turn, in this process; the sub-nets in their last
phase, on as many random paths a batch as the recipe has codes. Smaller parts of a batch take longer even without
groups; how much of the difference that is, shows one supernet that computes its batches in as many parts. A step is
forward, backward, optimiser and average. Reading images and making views, the same for all, is timed once a step: a
training without worker processes has both one after the other, one with enough of them only the step.

    python benchmarks/pretrain_routed.py --space micro --data tiny_imagenet/train
    python benchmarks/pretrain_routed.py --space data --recipe sdr_in1k --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightly.models.utils import update_momentum
from pretrain import WARM_UP, draw_images
from torch.utils.data import DataLoader

from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.augmentation import whole_views
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.recipe import Recipe, read_recipe
from data_plugin.pretrain.routed_step import RoutedTraining
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch, EpochStream, Views, collate
from data_plugin.space.search_space import SPACES, SearchSpace

LEVELS, CHILDREN = 4, 4

VIEWS = "views"
"""What making the views of a batch is called among the times."""


def batches(training: SupernetTraining, data: Path, steps: int) -> Iterator[tuple[Batch, float]]:
    """Views, of each image a path: so many random ones in equal parts; and the seconds that making the views took."""
    recipe, images = training.recipe, open_images(data)
    made = whole_views(training.method.views, recipe.image_size, InputFormat.imagenet())
    stream = EpochStream(images, steps * recipe.batch_size, recipe.batch_size)
    loader = iter(DataLoader(Views(images, made, 0), recipe.batch_size, sampler=stream, collate_fn=collate))
    for step in range(steps):
        start = time.perf_counter()
        batch = next(loader)
        taken = time.perf_counter() - start
        drawn = np.random.default_rng(step).integers(0, CHILDREN, (recipe.codes_per_batch or 1, LEVELS))
        paths = np.repeat(drawn, recipe.batch_size // len(drawn), axis=0)
        views = [view.to(training.device) for view in batch.views]
        yield batch._replace(views=views, paths=[tuple(path) for path in paths.tolist()]), taken


def timed_step(training: SupernetTraining, optimizer: torch.optim.Optimizer, batches: Sequence[Batch]) -> float:
    """Seconds of one step on the mean loss of some batches."""
    _synchronise(training.device)
    start = time.perf_counter()
    (sum(training.training_step(batch, 0) for batch in batches) / len(batches)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    update_momentum(training.query, training.key, training.recipe.key_momentum)
    update_momentum(training.method.query_head, training.method.key_head, training.recipe.key_momentum)
    _synchronise(training.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--data", type=Path, help="images (default: drawn ones)")
    parser.add_argument("--recipe", default="micro_sdr", help="one with codes_per_batch")
    parser.add_argument("--opts", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the recipe")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def main() -> None:
    args = parser().parse_args()
    space, recipe = SPACES[args.space](), read_recipe(args.recipe, args.opts)
    args.image_size, args.batch_size = recipe.image_size, recipe.batch_size
    with TemporaryDirectory() as folder:
        measure(space, recipe, args.data or draw_images(Path(folder), args), args.steps, args.device)


def measure(space: SearchSpace, recipe: Recipe, data: Path, timed: int, device: str) -> None:
    """Train some steps in turn, and print what they took."""
    steps = WARM_UP + timed
    unified = dataclasses.replace(recipe, codes_per_batch=None)
    trainings: dict[str, Any] = {
        "one supernet": SupernetTraining(space, unified, steps, seed=0),
        "one supernet, in parts": SupernetTraining(space, unified, steps, seed=0),
        "sub-nets": RoutedTraining(space, recipe, Phases(LEVELS, CHILDREN, (0,) * (LEVELS + 1)), steps, seed=0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*trainings, VIEWS]}
    optimizers = {}
    for name, training in trainings.items():
        training.to(device).train()
        training.log = training.log_dict = lambda *_, **__: None
        optimizers[name] = training.configure_optimizers()["optimizer"]
    drawn = trainings["one supernet"].networks
    for step, (batch, taken) in enumerate(batches(trainings["sub-nets"], data, steps)):
        networks = drawn(step)
        seconds[VIEWS].append(taken)
        alone = [part._replace(paths=None) for part, _ in batch.parts()]
        given = {"one supernet": [batch._replace(paths=None)], "one supernet, in parts": alone, "sub-nets": [batch]}
        for name, training in trainings.items():
            training.networks = lambda _, networks=networks: networks
            seconds[name].append(timed_step(training, optimizers[name], given[name]))
    median = {name: float(np.median(values[WARM_UP:])) for name, values in seconds.items()}
    views, base = median.pop(VIEWS), median["one supernet"]
    print(f"Views of a batch take {views:.2f} s.\n")
    print("| trained | weights of a branch | s a step | times one supernet's | images/s with views | times slower |")
    print("| --- " * 6 + "|")
    for name, taken in median.items():
        count = sum(value.numel() for value in trainings[name].query.parameters())
        print(
            f"| {name} | {count:,} | {taken:.2f} | {taken / base:.2f} | {recipe.batch_size / (views + taken):.1f} "
            f"| {(views + taken) / (views + base):.2f} |"
        )


if __name__ == "__main__":
    main()
