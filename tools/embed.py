"""Compute the features of images by one network, and keep them in an embedding store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.embed_arguments import add_embed_arguments, options, summary
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.extras import require_installed

NEEDED = ("torchvision",)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="embed",
        description=__doc__,
        epilog="Stores that are to be compared, as data-select does, need the same network, --calibrate and "
        "--image-size. On several GPUs or machines: torchrun --nproc-per-node N tools/embed.py ..., or under srun.",
    )
    parser.add_argument(
        "--data",
        dest="images",
        type=Path,
        required=True,
        help="images: a folder, at any depth; a folder of .tar shards; or a .txt file that names one a line",
    )
    parser.add_argument("--out", type=Path, required=True, help="the store, a folder")
    add_embed_arguments(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an unfinished store")
    again.add_argument("--overwrite", action="store_true", help="replace the store in the output folder")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, embed, say what came of it."""
    args = parser().parse_args(argv)
    require_installed(NEEDED, extra="pretrain")
    from data_plugin.features.run import embed_images
    from data_plugin.utils.ranks import joined_ranks, rank

    with joined_ranks():
        store = embed_images(args.images, out=args.out, resume=args.resume, overwrite=args.overwrite, **options(args))
        if rank() == 0:
            print(summary(store))
    return 0


if __name__ == "__main__":
    sys.exit(main())
