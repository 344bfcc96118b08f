"""Search a supernet for the backbone that fits a classifier's images and budget best; no framework, and no labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.number_arguments import whole
from data_plugin.tools.search_cli import add_search_arguments, command, search_options

if TYPE_CHECKING:
    from data_plugin.search.found import Search


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="search_cls.py", description=__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="SOURCE",
        help="the images, whose labels, if any, are not looked at: a folder at any depth, such as one with a "
        "sub-folder a class, a folder of .tar shards, one shard, or a .txt file that names an image a line",
    )
    parser.add_argument(
        "--image-size",
        type=_pixels,
        metavar="N",
        help="height and width at which a network sees an image, its centre cut out (default: the pre-training's)",
    )
    add_search_arguments(parser)
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    arguments = parser().parse_args(argv)

    from data_plugin.search.options import SearchOptions
    from data_plugin.search.run import plan_search, run_search

    options = SearchOptions(
        **search_options(arguments, images=arguments.images),
        config=str(arguments.images),
        task="classification",
        image_size=arguments.image_size,
    )
    if arguments.dry_run:
        plan = plan_search(options)
        if plan is not None:
            print(plan)
        return 0
    search = run_search(options, lambda plan: print(f"{plan}\n", flush=True))
    if search is not None:
        print(f"{search}\n\nreport: {search.out / 'report.html'}")
        _print_evaluation(search)
    return 0


def _print_evaluation(search: Search) -> None:
    """The command that measures the closest network of every budget."""
    size = [] if (at := search.report.run["asked_for"]["image_size"]) is None else ["--image-size", at]
    supernet, archs = search.report.run["supernet"]["path"], [found.folder for found in search.closest]
    words = ["--supernet", supernet, "--arch", *archs, *size, "--out", search.out / "evaluated"]
    print("measure with labels, where you have any, with:")
    print(f"  {command('evaluate', 'knn', *words)} --train TRAIN --val VAL")


def _pixels(text: str) -> int:
    return whole(text, least=1, expected="a number of pixels above 0")


if __name__ == "__main__":
    sys.exit(main())
