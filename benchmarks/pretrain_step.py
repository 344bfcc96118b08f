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

from lightly.models.utils import update_momentum
from pretrain import SELF_SUPERVISED, WARM_UP, draw_images, naive, set_up

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


def measure(args: argparse.Namespace, method: str) -> tuple[Counter[str], float]:
    """Seconds of the parts of one step, and of a whole step of the naive loop."""
    steps = WARM_UP + args.steps
    training, loader = set_up(args, method, 2 * steps)
    optimizer = training.configure_optimizers()["optimizer"]
    batches = iter(loader)
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
            update_momentum(training.query, training.key, training.recipe.key_momentum)
            update_momentum(training.method.query_head, training.method.key_head, training.recipe.key_momentum)
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
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--methods", nargs="+", choices=SELF_SUPERVISED, default=SELF_SUPERVISED)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.set_defaults(workers=0, device="cpu")  # everything in this process, where its parts can be told apart
    return parser


def main() -> None:
    args = parser().parse_args()
    with TemporaryDirectory() as folder:
        args.data = args.data or draw_images(Path(folder), args)
        print(f"| method | {' | '.join(PARTS)} | in all (s) | naive in all (s) | ratio |")
        print("| --- " * (len(PARTS) + 4) + "|")
        for method in args.methods:
            seconds, naive_seconds = measure(args, method)
            whole = seconds.total()
            shares = " | ".join(f"{seconds[name] / whole:.0%}" for name in PARTS)
            ratio = naive_seconds / whole
            print(f"| {method} | {shares} | {whole:.2f} | {naive_seconds:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
