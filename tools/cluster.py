"""Split the images of an embedding store into a tree of balanced clusters, and give each image its code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.utils.extras import require_installed

NEEDED = ("sklearn",)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="cluster",
        description=__doc__,
        epilog="The codes are what data-pretrain --codes trains the sub-nets of a supernet with groups by.",
    )
    parser.add_argument("--store", type=Path, required=True, help="the embedding store, a folder that data-embed wrote")
    parser.add_argument("--out", type=Path, required=True, help="the codes, a folder; codes.html in it shows them")
    parser.add_argument("--levels", type=int, default=4, help="how often parts are split (default: %(default)s)")
    parser.add_argument("--children", type=int, default=4, help="into how many parts (default: %(default)s)")
    parser.add_argument(
        "--random", action="store_true", help="deal the images to parts of equal size at random, as a control"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace codes in the output folder")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, cluster, say what came of it."""
    args = parser().parse_args(argv)
    require_installed(NEEDED, extra="pretrain")
    from data_plugin.features.clustering import cluster_store

    codes = cluster_store(**vars(args))
    print(codes)
    print(f"codes: {codes.folder}; what they look like: {codes.folder / 'codes.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
