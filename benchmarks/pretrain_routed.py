"""Pre-training of sub-nets against that of one supernet: seconds of a step, weights.

All train with the same recipe on the same random views, step by step in turn, in this process; the sub-nets in their
last phase, on as many random paths a batch as the recipe has codes. Smaller parts of a batch take longer even without
groups; how much of the difference that is, shows one supernet that computes its batches in as many parts. A step is
forward, backward, optimiser and average; reading images and making views take the same time for all and are left out.

    python benchmarks/pretrain_routed.py --space micro
    python benchmarks/pretrain_routed.py --space data --recipe sdr_in1k --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightly.models.utils import update_momentum

from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.recipe import read_recipe
from data_plugin.pretrain.routed_step import RoutedTraining
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch
from data_plugin.space.search_space import SPACES

WARM_UP = 2
"""Steps that are not timed."""

LEVELS, CHILDREN = 4, 4


def random_batch(training: SupernetTraining, step: int) -> Batch:
    """Views of noise, and of each image a path: so many random ones in equal parts."""
    recipe, generator = training.recipe, torch.Generator().manual_seed(step)
    size = (recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    views = [torch.randn(size, generator=generator).to(training.device) for _ in training.method.views]
    drawn = np.random.default_rng(step).integers(0, CHILDREN, (recipe.codes_per_batch or 1, LEVELS))
    paths = np.repeat(drawn, recipe.batch_size // len(drawn), axis=0)
    return Batch(views, [], None, [tuple(path) for path in paths.tolist()])


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
    parser.add_argument("--recipe", default="micro_sdr", help="one with codes_per_batch")
    parser.add_argument("--opts", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the recipe")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def main() -> None:
    args = parser().parse_args()
    space, recipe = SPACES[args.space](), read_recipe(args.recipe, args.opts)
    steps = WARM_UP + args.steps
    unified = dataclasses.replace(recipe, codes_per_batch=None)
    trainings: dict[str, Any] = {
        "one supernet": SupernetTraining(space, unified, steps, seed=0),
        "one supernet, in parts": SupernetTraining(space, unified, steps, seed=0),
        "sub-nets": RoutedTraining(space, recipe, Phases(LEVELS, CHILDREN, (0,) * (LEVELS + 1)), steps, seed=0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    optimizers = {}
    for name, training in trainings.items():
        training.to(args.device).train()
        training.log = training.log_dict = lambda *_, **__: None
        optimizers[name] = training.configure_optimizers()["optimizer"]
    drawn = trainings["one supernet"].networks
    for step in range(steps):
        networks = drawn(step)
        batch = random_batch(trainings["sub-nets"], step)
        alone = [part._replace(paths=None) for part, _ in batch.parts()]
        given = {"one supernet": [batch._replace(paths=None)], "one supernet, in parts": alone, "sub-nets": [batch]}
        for name, training in trainings.items():
            training.networks = lambda _, networks=networks: networks
            taken = timed_step(training, optimizers[name], given[name])
            if step >= WARM_UP:
                seconds[name].append(taken)
    print("| trained | weights of a branch | images/s | seconds a step | times that of one supernet |")
    print("| --- | --- | --- | --- | --- |")
    base = None
    for name, training in trainings.items():
        median = float(np.median(seconds[name]))
        base = base or median
        count = sum(value.numel() for value in training.query.parameters())
        print(f"| {name} | {count:,} | {recipe.batch_size / median:.1f} | {median:.2f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
