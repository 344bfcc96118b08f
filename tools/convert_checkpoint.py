"""Import the checkpoint that DATA's authors released, export one network of a supernet, or make a supernet small."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.space.search_space import SPACES
from data_plugin.supernet.named_supernet import WEIGHTS
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="convert_checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    to_ours = commands.add_parser("import", help="the authors' release to a supernet")
    to_ours.add_argument("checkpoint", type=Path, help="the released file")
    to_ours.add_argument("--out", type=Path, required=True, help="the supernet's file, such as supernet.safetensors")
    to_ours.add_argument("--space", choices=SPACES, default="data", help="space of the release (default: %(default)s)")
    to_ours.add_argument(
        "--image-size", type=int, default=224, help="pixels that it was trained at (default: %(default)s)"
    )
    to_ours.add_argument(
        "--channel-order", choices=("RGB", "BGR"), default="RGB", help="of its images (default: %(default)s)"
    )
    for name, example in (("mean", "123.675 116.28 103.53"), ("std", "58.395 57.12 57.375")):
        to_ours.add_argument(
            f"--{name}", type=float, nargs=3, help=f"of each channel, from 0 to 255 (default: ImageNet's {example})"
        )
    to_ours.add_argument("--overwrite", action="store_true", help="replace the file")

    export = commands.add_parser("export", help="a network of a supernet to plain backbone weights")
    export.add_argument(
        "--supernet", required=True, help="the supernet's file, or 'shipped' for the one that comes with the package"
    )
    export.add_argument(
        "--arch",
        required=True,
        help="smallest, middle, largest, a string such as d3-2-17-3_w32-48-96-192-512, a file with an architecture, or "
        "the folder of a search's winner",
    )
    export.add_argument("--out", type=Path, required=True, help="output folder")
    export.add_argument(
        "--calibrate",
        type=Path,
        metavar="IMAGES",
        help="folder of unlabelled images on which batch-norm statistics are estimated; without it the network gets "
        "the supernet's running statistics, which mix those of all its networks",
    )
    export.add_argument(
        "--calibration", type=int, default=2048, metavar="COUNT", help="how many are drawn (default: %(default)s)"
    )
    export.add_argument("--batch-size", type=int, default=256, help="images per batch (default: %(default)s)")
    export.add_argument("--image-size", type=int, help="height and width in pixels (default: the pre-training's)")
    export.add_argument("--seed", type=int, default=0, help="seed of the drawn images (default: %(default)s)")
    export.add_argument("--workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    export.add_argument("--overwrite", action="store_true", help="replace a backbone in the output folder")

    pack = commands.add_parser(
        "pack",
        help="a trained supernet in a quarter of the space, to hand on",
        description="Write a trained supernet in about a quarter of the space: the key branch, the average, which the "
        "query branch nearly coincides with when the learning rate has fallen to nothing, stands for both, in half "
        "precision. It is read like any other.",
    )
    pack.add_argument("supernet", help="the supernet's file")
    pack.add_argument("--out", type=Path, required=True, help=f"folder that {WEIGHTS} is written into")
    pack.add_argument("--overwrite", action="store_true", help="replace the file")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    args = parser().parse_args(argv)
    {"import": _import, "export": _export, "pack": _pack}[args.command](args)
    return 0


def _import(args: argparse.Namespace) -> None:
    from data_plugin.images.input_format import InputFormat
    from data_plugin.supernet.checkpoint import save_supernet
    from data_plugin.supernet.release import read_release

    _require_free(args.out, args.overwrite)
    if args.out.suffix != ".safetensors":
        raise UserError(f"{args.out} does not end in .safetensors; a supernet's file does")
    usual = InputFormat.imagenet()
    input_format = InputFormat.from_json(
        {"channel_order": args.channel_order, "mean": args.mean or usual.mean, "std": args.std or usual.std}
    )
    release = read_release(args.checkpoint, SPACES[args.space](), input_format, args.image_size)
    save_supernet(args.out, release.supernet)
    for part, count in release.entries.items():
        print(f"{part:<12}{count:>6} entries")
    print(f"left out: {', '.join(release.left_out)}")
    print(f"{args.out}: {len(release.supernet.info.space)} networks, images in {input_format}")


def _export(args: argparse.Namespace) -> None:
    from data_plugin.backbones.extract import extract
    from data_plugin.supernet.backbone_files import ARCH_FILE, save_backbone
    from data_plugin.supernet.calibration import calibrate
    from data_plugin.supernet.checkpoint import load_supernet
    from data_plugin.supernet.named_networks import named_networks

    _require_free(args.out / ARCH_FILE, args.overwrite)
    supernet = load_supernet(args.supernet)
    (arch,) = named_networks([args.arch], supernet.info.space)
    network = extract(supernet.query, arch)
    statistics = "running statistics of the whole supernet"
    if args.calibrate:
        from data_plugin.evaluation.images import calibration_images, centre_crop, pretrained_size

        size = args.image_size or pretrained_size(args.supernet, supernet.info)
        transform = centre_crop(size, supernet.info.input_format)
        images = calibration_images(
            args.calibrate, transform, args.calibration, args.batch_size, args.seed, args.workers
        )
        calibrate([network], images)
        statistics = f"batch-norm statistics of {len(images) * (images.batch_size or 1)} images at {size} pixels"
    save_backbone(args.out, network)
    print(f"{arch}, {statistics}\n" + "\n".join(str(path) for path in sorted(args.out.iterdir())))


def _pack(args: argparse.Namespace) -> None:
    from data_plugin.supernet.pack import pack

    _require_free(args.out / WEIGHTS, args.overwrite)
    packed = pack(args.supernet, args.out)
    print(f"{packed.path}: {packed.path.stat().st_size / 1e6:.1f} MB, the key branch for both, in half precision")
    print(f"the query branch's weights were {packed.apart:.2%} of their length from it")


def _require_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; give another --out or pass --overwrite")


if __name__ == "__main__":
    sys.exit(main())
