"""Pre-train a supernet on unlabelled images."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.pretrain.recipe import METHODS, RECIPES, Recipe, default_recipe, read_recipe
from data_plugin.space.named_space import read_space
from data_plugin.space.search_space import SPACES, SearchSpace
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed
from data_plugin.utils.workers import spare_cores

NEEDED = ("lightly", "lightning", "torchvision")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="pretrain",
        description=__doc__,
        epilog="On several GPUs or machines: torchrun --nproc-per-node N tools/pretrain.py ..., or under srun; the "
        "processes share every batch. Methods: " + ", ".join(METHODS) + ", or module:class in a recipe file.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="images: a folder, at any depth (labels are not read); a folder of .tar shards; or a .txt file that names "
        "one a line",
    )
    parser.add_argument(
        "--space",
        required=True,
        help=f"search space: {', '.join(SPACES)}, or a .json file; one choice everywhere trains one network, without a "
        "supernet's further ones",
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder; supernet.safetensors is the result")
    parser.add_argument(
        "--recipe",
        help=f"method and hyper-parameters: a .toml file, or {', '.join(RECIPES)} (default: micro for --space micro "
        "and mini, data_mocov2_in1k for others)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the images")
    length.add_argument("--steps", type=int, help="number of steps, instead of epochs")
    parser.add_argument(
        "--epochs-like",
        type=int,
        metavar="IMAGES",
        help="take as many steps as the epochs are on that many images, such as 1281167 for ImageNet's (default: those "
        "on the images that there are)",
    )
    parser.add_argument("--batch-size", type=int, help="images per step, over all processes")
    parser.add_argument("--image-size", type=int, help="height and width of a view in pixels")
    parser.add_argument("--lr", type=float, help="learning rate after the warm-up")
    parser.add_argument(
        "--teacher",
        choices=("largest", "same-arch"),
        help="the key branch's network: always the largest, or the query network's own, which compares images within "
        "the batch instead of with the queue (default: the recipe's)",
    )
    parser.add_argument(
        "--sampler",
        choices=("random", "sandwich"),
        help="query networks beside the largest: two random ones, or the smallest and a random one (default: the "
        "recipe's)",
    )
    parser.add_argument(
        "--norm-statistics",
        choices=("synced", "shuffled"),
        help="under several processes, batch norms use the statistics of the whole batch, or each process those of its "
        "part, with the keys' images shuffled as in MoCo (default: the recipe's)",
    )
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other values of the recipe, such as key_momentum=0.99 settings.queue=4096",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument(
        "--workers", type=int, help=f"processes that read images (default: the spare cores, here {spare_cores()})"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: auto)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "fp64"),
        default="fp32",
        help="of the networks; fp64 is for comparisons (default: fp32)",
    )
    parser.add_argument(
        "--accumulate", type=int, default=1, metavar="N", help="compute every batch in N parts, for less memory"
    )
    parser.add_argument(
        "--with-cp", action="store_true", help="recompute activations in the backward pass, for less memory"
    )
    parser.add_argument(
        "--views-on",
        choices=("workers", "device"),
        default="workers",
        help="where the views' colours are made; device spares CPUs that cannot keep up with a GPU (default: workers)",
    )
    parser.add_argument(
        "--knn-train", type=Path, help="labelled folder (a sub-folder a class) to vote in a regular kNN evaluation"
    )
    parser.add_argument("--knn-val", type=Path, help="labelled folder to classify in it")
    parser.add_argument(
        "--knn-every", type=float, default=10, metavar="EPOCHS", help="epochs between two (default: %(default)s)"
    )
    parser.add_argument(
        "--codes",
        metavar="FOLDER",
        help="codes of the images, as data-cluster makes them, for a recipe such as micro_sdr: many sub-nets, each "
        "trained on the images of one code",
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=500, metavar="STEPS", help="steps between checkpoints (default: 500)"
    )
    parser.add_argument(
        "--max-unreadable",
        type=int,
        metavar="N",
        help="images that may be unreadable, others standing in (default: one in a thousand)",
    )
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="weights to start from: a supernet ('shipped' for the one that comes with the package), the authors' "
        "release, or a ResNet of torchvision, timm, MMPretrain or MoCo that fits inside the space's largest network; "
        "whatever is wider or deeper starts so that their function stays",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    again.add_argument("--overwrite", action="store_true", help="replace what the output folder holds")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, say where the supernet is."""
    args = parser().parse_args(argv)
    for name in ("epochs", "steps", "checkpoint_every", "accumulate"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected at least 1")
    if args.steps is not None and args.epochs_like is not None:
        raise UserError("--steps and --epochs-like both say how many steps there are; expected one of them")
    if (args.knn_train is None) != (args.knn_val is None):
        raise UserError("a kNN evaluation needs two labelled folders; expected both --knn-train and --knn-val")
    require_installed(NEEDED, extra="pretrain")
    space = read_space(args.space)
    recipe = _recipe(args, space)
    from lightning.pytorch.utilities import rank_zero_only

    from data_plugin.pretrain.run import Labelled, pretrain_supernet

    # lightly's kNN brings Lightning's other package along, which logs the same.
    for package in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(package).setLevel(logging.WARNING)
    result = pretrain_supernet(
        args.data,
        space,
        out=args.out,
        recipe=recipe,
        steps=args.steps,
        epochs_like=args.epochs_like,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
        precision=args.precision,
        accumulate=args.accumulate,
        with_cp=args.with_cp,
        views_on=args.views_on,
        knn=Labelled(args.knn_train, args.knn_val, args.knn_every) if args.knn_train else None,
        codes=args.codes,
        checkpoint_every=args.checkpoint_every,
        init=args.init,
        resume=args.resume,
        overwrite=args.overwrite,
        max_unreadable=args.max_unreadable,
    )
    say = rank_zero_only(print)
    if result.unreadable:
        shown = ", ".join(result.unreadable[:5]) + (", …" if len(result.unreadable) > 5 else "")
        say(f"{len(result.unreadable)} of {result.images} images could not be read and were skipped: {shown}")
    say(f"{result.steps} steps on {result.images} images; supernet: {result.path}")
    return 0


def _recipe(args: argparse.Namespace, space: SearchSpace) -> Recipe:
    name = args.recipe or default_recipe(space)
    names = ("epochs", "batch_size", "image_size", "lr", "teacher", "sampler", "norm_statistics")
    given = [f"{name}={getattr(args, name)}" for name in names if getattr(args, name) is not None]
    return read_recipe(name, [*given, *args.opts])


if __name__ == "__main__":
    sys.exit(main())
