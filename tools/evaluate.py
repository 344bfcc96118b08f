"""Measure the features of a supernet's networks with labels: nearest neighbours, linear evaluation, fine-tuning."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.number_arguments import part, sub_net
from data_plugin.tools.quiet_lightning import quiet_lightning
from data_plugin.utils.extras import require_installed
from data_plugin.utils.workers import spare_cores

NEEDED = ("lightly", "lightning", "torchmetrics", "torchvision")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = _shared_arguments()

    knn = commands.add_parser("knn", parents=[shared], help="weighted nearest neighbours; nothing is trained")
    knn.add_argument("--k", type=int, default=200, help="number of neighbours (default: %(default)s)")
    knn.add_argument(
        "--temperature", type=float, default=0.07, help="what similarities are divided by (default: %(default)s)"
    )

    linear = commands.add_parser("linear", parents=[shared], help="linear classifiers on frozen features")
    _add_training_arguments(linear)

    semisup = commands.add_parser(
        "semisup", parents=[shared], help="fine-tuning of the whole network on a part of the labels, or on all of them"
    )
    semisup.add_argument(
        "--labels",
        type=part,
        required=True,
        metavar="PERCENT",
        help="part of every class that is trained on, at least one image: 1%%, 10%%, 100%%, ...",
    )
    _add_training_arguments(semisup)
    semisup.add_argument("--network-lr", type=float, help="learning rate of the network (default: the protocol's)")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the figures, print them."""
    args = parser().parse_args(argv)
    require_installed(NEEDED, extra="pretrain")
    from data_plugin.evaluation.classification import LINEAR, SEMISUP
    from data_plugin.evaluation.results import write_results
    from data_plugin.evaluation.run import open_evaluation, prepare_output

    quiet_lightning()
    evaluation, settings = open_evaluation(
        args.supernet,
        args.arch,
        args.train,
        args.val,
        path=args.path,
        image_size=args.image_size,
        untrained=args.untrained,
        device=args.device,
        seed=args.seed,
        calibration=args.calibration,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    resume = args.command != "knn" and args.resume
    prepare_output(args.out, args.command, resume=resume, overwrite=args.overwrite)
    if args.command == "knn":
        settings |= {"k": args.k, "temperature": args.temperature}
        accuracies = evaluation.knn(args.k, args.temperature)
    else:
        names = ("epochs", "batch_size", "head_lr", "network_lr", "weight_decay")
        given = {name: vars(args)[name] for name in names if vars(args).get(name) is not None}
        recipe = dataclasses.replace(LINEAR if args.command == "linear" else SEMISUP, **given)
        settings["recipe"] = dataclasses.asdict(recipe)
        folder = args.out / args.command
        if args.command == "linear":
            accuracies = evaluation.linear(recipe, folder, resume)
        else:
            settings["labels"] = args.labels
            accuracies = evaluation.semisup(recipe, args.labels, folder, resume)
    files = write_results(args.out, args.command, accuracies, settings)
    print(f"{'architecture':<30}{'top-1 (%)':>11}{'top-5 (%)':>11}")
    for arch, accuracy in accuracies.items():
        print(f"{arch!s:<30}{100 * accuracy.top1:>11.2f}{100 * accuracy.top5:>11.2f}")
    print("\n".join(str(path) for path in files))
    return 0


def _shared_arguments() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--supernet",
        required=True,
        help="supernet.safetensors that pre-training wrote, or 'shipped' for the one that comes with the package",
    )
    shared.add_argument(
        "--arch",
        nargs="+",
        action="extend",
        required=True,
        help="networks: smallest, middle, largest, a string such as d3-2-17-3_w32-48-96-192-512, a file with an "
        "architecture, or the folder of a search's winner",
    )
    shared.add_argument(
        "--path",
        type=sub_net,
        metavar="GROUPS",
        help="which sub-net of a supernet that was trained with --codes, such as 2,0,1,3",
    )
    shared.add_argument("--train", type=Path, required=True, help="folder with a sub-folder of images for each class")
    shared.add_argument("--val", type=Path, required=True, help="the same for measuring accuracy")
    shared.add_argument("--out", type=Path, required=True, help="output folder")
    shared.add_argument("--overwrite", action="store_true", help="replace an earlier measurement of the same kind")
    shared.add_argument(
        "--untrained", action="store_true", help="draw the weights at random instead of reading them, as a baseline"
    )
    shared.add_argument("--image-size", type=int, help="height and width in pixels (default: the pre-training's)")
    shared.add_argument(
        "--calibration",
        type=int,
        default=2048,
        metavar="IMAGES",
        help="training images that batch-norm statistics are estimated on, without labels (default: %(default)s)",
    )
    shared.add_argument("--batch-size", type=int, default=256, help="images per batch (default: %(default)s)")
    shared.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    shared.add_argument(
        "--workers",
        type=int,
        default=spare_cores(),
        help="processes that read images (default: %(default)s)",
    )
    shared.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return shared


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, help="passes over the images (default: the protocol's)")
    parser.add_argument("--head-lr", type=float, help="learning rate of the classifier (default: the protocol's)")
    parser.add_argument("--weight-decay", type=float, help="weight decay (default: the protocol's)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")


if __name__ == "__main__":
    sys.exit(main())
