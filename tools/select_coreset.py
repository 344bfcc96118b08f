"""Choose, from a large set of images, those that are near a target, for pre-training (SimCore)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.embed_arguments import add_embed_arguments, options, summary
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed

NEEDED = ("sklearn", "torchvision")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    # Not called select.py: run as a file, it would hide Python's own module of that name.
    parser = argparse.ArgumentParser(
        prog="select_coreset",
        description=__doc__,
        epilog="Either the images are embedded already (data-embed; --open and --target), or they are embedded first "
        "(--open-data and --target-data with --supernet or --backbone), into open.store and target.store beside the "
        "list, with batch-norm statistics of the target if --calibrate names no other images.",
    )
    opened = parser.add_mutually_exclusive_group(required=True)
    opened.add_argument("--open", type=Path, metavar="STORE", help="embedding store of the images to choose from")
    opened.add_argument("--open-data", type=Path, metavar="IMAGES", help="the images themselves, as data-embed --data")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--target", type=Path, metavar="STORE", help="embedding store of the target's images")
    target.add_argument("--target-data", type=Path, metavar="IMAGES", help="the images themselves")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the list to write, such as coreset.txt, for data-pretrain --data; selection.json and selection.html come "
        "beside it",
    )
    parser.add_argument(
        "--budget",
        metavar="N|PART",
        help="number of images, or part of the open set such as 1%% or 5%% (default: until they are too far from the "
        "target, 50 times its images at the most)",
    )
    parser.add_argument("--random", action="store_true", help="choose at random, as a baseline; needs a --budget")
    parser.add_argument(
        "--clusters",
        type=int,
        default=100,
        help="centroids of the target; its images themselves where there are no more (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument(
        "--keep-duplicates",
        action="store_true",
        help="also choose images whose pixels are those of one of the target (default: they are left out)",
    )
    add_embed_arguments(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with unfinished stores beside the list")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier selection wrote")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Embed what is not embedded yet, choose, say what was chosen."""
    args = parser().parse_args(argv)
    require_installed(NEEDED, extra="pretrain")
    from data_plugin.coreset.run import check_request, select_coreset
    from data_plugin.utils.ranks import joined_ranks, rank

    if args.open_data is None and args.target_data is None and (args.supernet or args.backbone):
        raise UserError("--supernet and --backbone are for --open-data and --target-data; leave them out for stores")
    asked = {name: getattr(args, name) for name in ("budget", "random", "clusters", "overwrite")}
    check_request(args.out, **asked)
    with joined_ranks():
        opened = _store(args, "open")
        target = _store(args, "target")
        coreset = select_coreset(
            opened, target, out=args.out, seed=args.seed, keep_duplicates=args.keep_duplicates, **asked
        )
        if rank() == 0:
            print(coreset)
            print(f"what they look like: {args.out.with_name('selection.html')}")
    return 0


def _store(args: argparse.Namespace, which: str) -> Path:
    """The store of one of the two, embedded here if it is not there."""
    from data_plugin.features.run import embed_images
    from data_plugin.utils.ranks import rank

    given, data = getattr(args, which), getattr(args, f"{which}_data")
    if given is not None:
        return given
    folder = args.out.parent / f"{which}.store"
    resume = args.resume and folder.is_dir()
    network = options(args)
    if args.supernet and args.open_data and args.target_data:
        network["calibrate"] = args.calibrate or args.target_data
    store = embed_images(data, out=folder, resume=resume, overwrite=args.overwrite, **network)
    if rank() == 0:
        print(summary(store))
    return folder


if __name__ == "__main__":
    sys.exit(main())
