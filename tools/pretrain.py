"""Pre-train a supernet on a folder of unlabelled images."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_plugin.errors import UserError
from data_plugin.pretrain.recipe import RECIPES, Recipe, named_recipe
from data_plugin.space import SPACES
from data_plugin.tools.exit_codes import user_errors_exit_2

NEEDED = ("lightly", "lightning", "torchvision")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="pretrain", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, at any depth; labels are not read")
    parser.add_argument("--space", choices=SPACES, required=True, help="search space")
    parser.add_argument("--out", type=Path, required=True, help="output folder; supernet.safetensors is the result")
    parser.add_argument(
        "--recipe",
        help=f"hyper-parameters: {', '.join(RECIPES)} (default: micro for --space micro, data_mocov2_in1k for data)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the images")
    length.add_argument("--steps", type=int, help="number of steps, instead of epochs")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--image-size", type=int, help="height and width of a view in pixels")
    parser.add_argument("--lr", type=float, help="learning rate after the warm-up")
    parser.add_argument("--warmup", type=float, help="part of the steps in which the learning rate rises, 0 to 1")
    parser.add_argument("--weight-decay", type=float, help="weight decay")
    parser.add_argument("--key-momentum", type=float, help="what the key branch keeps of itself in a step")
    parser.add_argument("--queue", type=int, help="number of negatives; a multiple of the batch size")
    parser.add_argument("--temperature", type=float, help="what similarities are divided by")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=_spare_cores(), help="processes that read images (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: auto)"
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=500, metavar="STEPS", help="steps between checkpoints (default: 500)"
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="pass over images that cannot be read, and count them"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    again.add_argument("--overwrite", action="store_true", help="replace what the output folder holds")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, say where the supernet is."""
    args = parser().parse_args(argv)
    _require_positive(args, "epochs", "steps", "checkpoint_every")
    recipe = _recipe(args)
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} is not installed; install it with: pip install 'data_plugin[pretrain]'"
        )
    from data_plugin.pretrain.fit import pretrain

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    result = pretrain(
        args.data,
        SPACES[args.space](),
        recipe,
        args.out,
        steps=args.steps,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
        checkpoint_every=args.checkpoint_every,
        resume=args.resume,
        overwrite=args.overwrite,
        skip_unreadable=args.skip_unreadable,
    )
    if result.unreadable:
        shown = ", ".join(result.unreadable[:5]) + (", …" if len(result.unreadable) > 5 else "")
        print(f"{len(result.unreadable)} of {result.images} images could not be read and were skipped: {shown}")
    print(f"{result.steps} steps on {result.images} images; supernet: {result.path}")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    recipe = named_recipe(args.recipe or {"data": "data_mocov2_in1k"}.get(args.space, args.space))
    method = dataclasses.replace(recipe.method, **_given(args, "queue", "temperature"))
    names = ("epochs", "batch_size", "image_size", "lr", "warmup", "weight_decay", "key_momentum")
    return dataclasses.replace(recipe, method=method, **_given(args, *names))


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _require_positive(args: argparse.Namespace, *names: str) -> None:
    for name, value in _given(args, *names).items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected at least 1")


def _spare_cores() -> int:
    return min(16, max(1, (os.cpu_count() or 1) - 1))


if __name__ == "__main__":
    sys.exit(main())
