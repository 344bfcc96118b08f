"""Supernet pre-training against the naive loop, for each method: images per second, peak memory, waiting for data.

The naive loop has a backward pass, and with it a gradient reduction, for each of the three query networks, in single
precision and torch's default memory format. Both read the same images with the same worker processes and make the same
views. Every row is a process of its own, so that its peak memory is its own; each goes through the same steps, and the
first of them are not timed.

    python benchmarks/pretrain.py --space micro --image-size 64 --batch-size 64
    python benchmarks/pretrain.py --space data --image-size 224 --batch-size 64 --device cuda --precision bf16 \
        --views-on device
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.augmentation import Colours, crops, whole_views
from data_plugin.pretrain.recipe import METHODS, read_recipe
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch, EpochStream, Views, collate
from data_plugin.space import cost
from data_plugin.space.search_space import SPACES, SearchSpace

WARM_UP = 2
"""Steps that are not timed."""

SELF_SUPERVISED = [method for method in METHODS if method not in ("distill", "mocov2_symmetric")]
"""Those with recipes, save for ``distill``: with a frozen teacher there is no naive loop to compare with."""


def ours(training: SupernetTraining, batch: Batch) -> None:
    training.training_step(batch, 0).backward()


def naive(training: SupernetTraining, batch: Batch) -> None:
    method = training.method
    with torch.no_grad():
        targets = method.targets(
            [training.key(batch.views[view], training.space.largest)[-1] for view in method.key_views]
        )
    for arch in training.networks(training.global_step):
        maps = [training.query(batch.views[view], arch)[-1] for view in method.query_views]
        method.loss(method.predictions(maps), targets).backward()
    method.remember(targets)


LOOPS: dict[str, Callable[[SupernetTraining, Batch], None]] = {"ours": ours, "naive": naive}


def set_up(args: argparse.Namespace, method: str, steps: int, views_on: str = "workers") -> tuple[Any, DataLoader]:
    """What trains, and the batches of so many steps.

    Args:
        args: ``space``, ``image_size``, ``batch_size``, ``data``, ``workers`` and ``device``.
        method: a name of :data:`SELF_SUPERVISED`.
        steps: number of batches.
        views_on: "workers", or "device" for batches of crops, whose colours :func:`ours` makes where the networks are.
    """
    torch.manual_seed(0)
    large = {"simclr": "simcore_simclr", "simsiam": "simsiam_in1k"}.get(method, f"data_{method}_in1k")
    small = {"mocov2": "micro"}.get(method, f"micro_{method}")
    recipe = read_recipe(
        large if args.space == "data" else small,
        [f"batch_size={args.batch_size}", f"image_size={args.image_size}"],
    )
    training: Any = SupernetTraining(SPACES[args.space](), recipe, steps, seed=0).to(args.device).train()
    training.log = training.log_dict = lambda *_, **__: None
    images = open_images(args.data)
    distributions, size, form = training.method.views, args.image_size, InputFormat.imagenet()
    if views_on == "device":
        training.colours = Colours(distributions, form).to(args.device)
        made = crops(distributions, size)
    else:
        made = whole_views(distributions, size, form)
    views = Views(images, made, 0)
    loader = DataLoader(
        views,
        args.batch_size,
        sampler=EpochStream(images, steps * args.batch_size, args.batch_size),
        num_workers=args.workers,
        collate_fn=collate,
        pin_memory=args.device == "cuda",
    )
    return training, loader


def draw_images(folder: Path, args: argparse.Namespace) -> Path:
    """Draw images for some batches, where none are given; returns their folder."""
    draw_voc(folder, train=1, test=1, size=(2 * args.image_size,) * 2, unlabelled=4 * args.batch_size)
    return folder / "VOC2007" / "JPEGImages"


def measure(args: argparse.Namespace, loop: str, method: str) -> dict[str, float]:
    """Train some steps and time them."""
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = WARM_UP + args.steps
    training, loader = set_up(args, method, steps, args.views_on if loop == "ours" else "workers")
    optimizer = training.configure_optimizers()["optimizer"]
    networks = [training.networks(step) for step in range(steps)]
    half = loop == "ours" and args.precision == "bf16"
    waiting = start = 0.0
    batches = iter(loader)
    for step in range(steps):
        if step == WARM_UP:
            _synchronise(device)
            start, waiting = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        batch = Batch([view.to(device, non_blocking=True) for view in batch.views], batch.unreadable)
        training.networks = lambda _, step=step: networks[step]
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            LOOPS[loop](training, batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _synchronise(device)
    elapsed = time.perf_counter() - start
    # The key branch runs forward, each query network forward and, at twice the cost, backward, for each of its views.
    flops = {arch: cost.flops(arch, args.image_size) for timed in networks[WARM_UP:] for arch in timed}
    query = sum(flops[arch] for timed in networks[WARM_UP:] for arch in timed) / args.steps
    macs = flops[training.space.largest] * len(training.method.key_views) + 3 * query * len(training.method.query_views)
    rate = args.batch_size * args.steps / elapsed
    return {
        "images/s": rate,
        "waiting": waiting / elapsed,
        "memory": (
            torch.cuda.max_memory_allocated(device)
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        / 1e9,
        "operations/s": 2 * macs * rate,
    }


def matrix_peak(device: torch.device) -> float:
    """Operations per second of a large bf16 matrix product."""
    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        matrix @ matrix
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    _synchronise(device)
    return 10 * 2 * 8192**3 / (time.perf_counter() - start)


def convolution_peak(space: SearchSpace, image_size: int, batch_size: int, device: torch.device) -> float:
    """Operations per second of the fastest 3x3 convolution of a space's largest network, in bf16 and channels last."""
    rates = []
    for stage, width in enumerate(space.largest.width):
        size = -(-image_size // (4 * 2**stage))
        layer = torch.nn.Conv2d(width, width, 3, padding=1, bias=False, device=device, dtype=torch.bfloat16)
        layer = layer.to(memory_format=torch.channels_last)
        maps = torch.randn(batch_size, width, size, size, device=device, dtype=torch.bfloat16)
        maps = maps.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(3):
                layer(maps)
            _synchronise(device)
            start = time.perf_counter()
            for _ in range(10):
                layer(maps)
            _synchronise(device)
        rates.append(10 * 2 * batch_size * size**2 * 9 * width**2 / (time.perf_counter() - start))
    return max(rates)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="images (default: drawn ones)")
    parser.add_argument("--space", choices=SPACES, default="micro")
    parser.add_argument("--methods", nargs="+", choices=SELF_SUPERVISED, default=SELF_SUPERVISED)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--workers", type=int, default=1, help="processes that make views")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="ours; the naive loop has fp32")
    parser.add_argument("--views-on", choices=("workers", "device"), default="workers", help="ours, as pre-training's")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.row:
        print(json.dumps(measure(args, *args.row)))
        return
    with TemporaryDirectory() as folder:
        arguments = sys.argv[1:]
        if args.data is None:
            arguments += ["--data", str(draw_images(Path(folder), args))]
        peak = matrix_peak(torch.device("cuda")) if args.device == "cuda" else None
        print(
            "| method | loop | images/s | ratio | peak memory (GB) | waiting for data |"
            + " of bf16 peak |" * bool(peak)
        )
        print("| --- | --- | --- | --- | --- | --- |" + " --- |" * bool(peak))
        for method in args.methods:
            rows = {}
            for loop in ("naive", "ours"):
                command = [sys.executable, __file__, *arguments, "--row", loop, method]
                rows[loop] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            for loop, row in rows.items():
                ratio = row["images/s"] / rows["naive"]["images/s"]
                line = f"| {method} | {loop} | {row['images/s']:.1f} | {ratio:.2f} | {row['memory']:.2f} | "
                line += f"{row['waiting']:.0%} |" + (f" {row['operations/s'] / peak:.0%} |" if peak else "")
                print(line, flush=True)


if __name__ == "__main__":
    main()
