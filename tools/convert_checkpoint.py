"""Import checkpoints of others, export one network of any supernet, or make a supernet small."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.space.search_space import SPACES
from data_plugin.supernet.named_supernet import WEIGHTS
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.supernet.imported import Imported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="convert_checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    to_ours = commands.add_parser(
        "import",
        help="the authors' release, or a ResNet of bottlenecks, to a supernet or plain backbone weights",
        description="Read the release of DATA's authors as a supernet; or a ResNet of bottlenecks in the names of "
        "MoCo, torchvision, timm or MMPretrain as the supernet of a space of one network (--space), or as plain "
        "backbone weights (without --space). Blocks are PyTorch-style, with the stride in the 3x3 convolution. "
        "Caffe-style weights (stride in the 1x1 before it: Detectron's and MSRA's) have the same names and shapes, so "
        "they cannot be told apart and would compute something else: do not import them.",
    )
    to_ours.add_argument("checkpoint", type=Path, help="the file; nothing in it is executed")
    to_ours.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the supernet's file, such as supernet.safetensors, or a folder for plain backbone weights",
    )
    to_ours.add_argument(
        "--space",
        help=f"search space: {', '.join(SPACES)}, or a .json file. For the release the one that was trained (default: "
        "data); for a ResNet that of this one network, with one choice everywhere",
    )
    to_ours.add_argument("--image-size", type=int, help="pixels that a supernet was trained at (default: 224)")
    to_ours.add_argument("--channel-order", choices=("RGB", "BGR"), help="of its images (default: RGB)")
    for name, example in (("mean", "123.675 116.28 103.53"), ("std", "58.395 57.12 57.375")):
        to_ours.add_argument(
            f"--{name}", type=float, nargs=3, help=f"of each channel, from 0 to 255 (default: ImageNet's {example})"
        )
    to_ours.add_argument("--overwrite", action="store_true", help="replace what is at --out")

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
    from data_plugin.supernet.one_network import read_one_network
    from data_plugin.supernet.release import holds_release, read_release

    if holds_release(args.checkpoint):
        _import_supernet(args, read_release)
    elif args.space is not None:
        _import_supernet(args, read_one_network)
    else:
        _import_backbone(args)


def _import_supernet(args: argparse.Namespace, read: Callable[..., Imported]) -> None:
    from data_plugin.images.input_format import InputFormat
    from data_plugin.space.named_space import read_space
    from data_plugin.supernet.checkpoint import save_supernet

    _require_free(args.out, args.overwrite)
    if args.out.suffix != ".safetensors":
        raise UserError(f"{args.out} does not end in .safetensors; a supernet's file does")
    usual = InputFormat.imagenet()
    input_format = InputFormat.from_json(
        {
            "channel_order": args.channel_order or usual.channel_order,
            "mean": args.mean or usual.mean,
            "std": args.std or usual.std,
        }
    )
    space = read_space("data" if args.space is None else args.space)
    imported = read(args.checkpoint, space, input_format, 224 if args.image_size is None else args.image_size)
    save_supernet(args.out, imported.supernet)
    for part, count in imported.entries.items():
        print(f"{part:<12}{count:>6} entries")
    for line in imported.notes:
        print(line)
    print(f"left out: {', '.join(imported.left_out) or 'nothing'}")
    print(f"{args.out}: {len(space)} network{'s' if len(space) > 1 else ''}, images in {input_format}")


def _import_backbone(args: argparse.Namespace) -> None:
    from data_plugin.supernet.backbone_files import ARCH_FILE, save_backbone
    from data_plugin.supernet.foreign_weights import listed, read_backbone, taken_from

    for name in ("image_size", "channel_order", "mean", "std"):
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is of a supernet's images, which plain backbone weights do not describe; "
                "leave it out, or give --space for a supernet"
            )
    if args.out.suffix in (".safetensors", ".pth"):
        raise UserError(
            f"{args.out} ends as a file does, and plain backbone weights are a folder of several; give a folder, or "
            "--space for a supernet's file"
        )
    _require_free(args.out / ARCH_FILE, args.overwrite)
    source = read_backbone(args.checkpoint)
    save_backbone(args.out, source.network())
    print(f"{source.arch}: {len(source.weights)} backbone tensors")
    if source.entry is not None:
        print(taken_from(source.entry))
    print(f"left out: {', '.join(listed(source.left_out)) or 'nothing'}")
    print("\n".join(str(path) for path in sorted(args.out.iterdir())))


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
    statistics = f"running statistics{' of the whole supernet' if len(supernet.info.space) > 1 else ''}"
    if args.calibrate:
        from data_plugin.images.calibration import calibration_images
        from data_plugin.images.crops import centre_crop
        from data_plugin.supernet.checkpoint import pretrained_size

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
