"""Where the time of a step of supernet pre-training goes, for each method: the parts of one step and their shares.

One process does everything one after the other, the views too. *Naive in all* is a step of the loop in
``benchmarks/pretrain.py`` that has a backward pass for each query network, with its views, taken in turn with ours.

    python benchmarks/pretrain_step.py --data tiny_imagenet/train --methods mocov2
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightly.models.utils import update_momentum
from pretrain import SELF_SUPERVISED, WARM_UP, naive
from torch.utils.data import DataLoader

from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.augmentation import whole_views
from data_plugin.pretrain.recipe import read_recipe
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import EpochStream, Views, collate
from data_plugin.space.search_space import SPACES

PARTS = ("views", "key branch", "query branch, forward", "heads and losses", "backward", "optimiser and average")


class Clock:
    """Seconds by name; of calls inside one another only the inner one's count."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inner = [0.0]

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.perf_counter()
        self._inner.append(0.0)
        yield
        whole = time.perf_counter() - began
        self.seconds[name] += whole - self._inner.pop()
        self._inner[-1] += whole

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return function(*args, **kwargs)

        return call


def measure(args: argparse.Namespace, data: Path, method: str) -> tuple[Counter[str], float]:
    """Seconds of the parts of one step, and of a whole step of the naive loop."""
    torch.manual_seed(0)
    recipe = read_recipe({"mocov2": "micro"}.get(method, f"micro_{method}"), [f"image_size={args.image_size}"])
    steps = WARM_UP + args.steps
    training: Any = SupernetTraining(SPACES[args.space](), recipe, 2 * steps, seed=0).train()
    training.log = training.log_dict = lambda *_, **__: None
    optimizer = training.configure_optimizers()["optimizer"]
    images = open_images(data)
    views = Views(images, whole_views(training.method.views, args.image_size, InputFormat.imagenet()), 0)
    stream = EpochStream(images, 2 * steps * recipe.batch_size, recipe.batch_size)
    batches = iter(DataLoader(views, recipe.batch_size, sampler=stream, collate_fn=collate))
    networks = training.networks
    clock = Clock()
    plain = {name: getattr(training, name).forward for name in ("key", "query")}
    naive_seconds = 0.0
    for step in range(steps):
        training.networks = lambda _, step=step: networks(step)
        if step == WARM_UP:
            clock.seconds.clear()
            naive_seconds = 0.0
        training.key.forward = clock.timed("key branch", plain["key"])
        training.query.forward = clock.timed("query branch, forward", plain["query"])
        with clock.of("views"):
            batch = next(batches)
        with clock.of("heads and losses"):
            loss = training.training_step(batch, 0)
        with clock.of("backward"):
            loss.backward()
        with clock.of("optimiser and average"):
            optimizer.step()
            update_momentum(training.query, training.key, recipe.key_momentum)
            update_momentum(training.method.query_head, training.method.key_head, recipe.key_momentum)
            optimizer.zero_grad(set_to_none=True)
        training.key.forward, training.query.forward = plain["key"], plain["query"]
        began = time.perf_counter()
        naive(training, next(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        naive_seconds += time.perf_counter() - began
    return Counter({name: seconds / args.steps for name, seconds in clock.seconds.items()}), naive_seconds / args.steps


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="images (default: drawn ones)")
    parser.add_argument("--space", choices=[name for name in SPACES if name != "data"], default="micro")
    parser.add_argument("--methods", nargs="+", choices=SELF_SUPERVISED, default=SELF_SUPERVISED)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    return parser


def main() -> None:
    args = parser().parse_args()
    with TemporaryDirectory() as folder:
        data = args.data
        if data is None:
            draw_voc(Path(folder), train=1, test=1, size=(2 * args.image_size,) * 2, unlabelled=256)
            data = Path(folder, "VOC2007", "JPEGImages")
        print(f"| method | {' | '.join(PARTS)} | in all (s) | naive in all (s) | ratio |")
        print("| --- " * (len(PARTS) + 4) + "|")
        for method in args.methods:
            seconds, naive_seconds = measure(args, data, method)
            whole = seconds.total()
            shares = " | ".join(f"{seconds[name] / whole:.0%}" for name in PARTS)
            ratio = naive_seconds / whole
            print(f"| {method} | {shares} | {whole:.2f} | {naive_seconds:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
