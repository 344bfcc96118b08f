"""Find the sub-net of a supernet with groups that was trained on images like yours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.classes_argument import add_classes_argument
from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules
from data_plugin.tools.number_arguments import sub_net, whole
from data_plugin.tools.search_cli import command, count_or_all, require_outside
from data_plugin.utils.extras import require_installed

if TYPE_CHECKING:
    from data_plugin.routing.route import Route

NEEDED = ("torchvision",)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="route",
        description=__doc__,
        epilog="The output folder holds the sub-net as a supernet, which data-search-det and its like take, and one "
        "network of it with configs that train it as it is.",
    )
    parser.add_argument(
        "--supernet", required=True, help="supernet.safetensors that data-pretrain --codes wrote, with groups"
    )
    parser.add_argument("--codes", type=Path, required=True, help="the codes that it was trained with, a folder")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--config", help="config name or path of a detector or segmenter, whose images are routed (default: --images)"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="SOURCE",
        help="the images: a folder at any depth, or of .tar shards, one shard, or a .txt file that names an image a "
        "line (default: the config's training images)",
    )
    add_data_root_argument(parser)
    add_classes_argument(parser, "detection")
    add_import_argument(parser)
    parser.add_argument("--framework", help=framework_help(None))
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FOLDER",
        help="labelled images, a sub-folder a class: take the sub-net that classifies each of them best by the others "
        "(default: no labels are read)",
    )
    parser.add_argument(
        "--unified", metavar="SUPERNET", help="a supernet without groups to measure on --labels beside the sub-nets"
    )
    parser.add_argument(
        "--neighbours",
        type=_positive,
        default=20,
        metavar="K",
        help="labelled images that vote on the class of each (default: %(default)s)",
    )
    parser.add_argument(
        "--path",
        type=sub_net,
        metavar="G,G,...",
        help="take this sub-net, such as 2,0,1,3, whatever the images say (default: the one that most fall to, or with "
        "--labels the most accurate)",
    )
    parser.add_argument(
        "--arch",
        default="largest",
        help="which network of the sub-net is written: smallest, middle, largest, an architecture, or a winner's "
        "folder (default: %(default)s)",
    )
    parser.add_argument(
        "--image-count",
        type=count_or_all,
        metavar="N",
        default=1_024,
        help="images drawn, of --labels as well, or 'all' (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=_positive,
        default=4,
        help="images in a batch that batch-norm statistics of the network are taken on (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that is not empty")
    return parser


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, route, say which sub-net it is and what to do with it."""
    arguments = vars(parser().parse_args(argv))
    if arguments["overwrite"]:
        read = ("supernet", "codes", "images", "data_root", "labels", "unified")
        require_outside(arguments["out"], {name: Path(arguments[name]) for name in read if arguments[name] is not None})
    require_installed(NEEDED, extra="pretrain")
    from data_plugin.routing.run import route_supernet

    import_modules(arguments.pop("imports"))
    route = route_supernet(options=arguments.pop("opts"), **arguments)
    print(f"{route}\n\nreport: {route.out / 'route.html'}")
    _print_next(route, arguments["config"], arguments["data_root"])
    return 0


def _print_next(route: Route, config: str | None, data_root: Path | None) -> None:
    """The commands that search in the route, and that fine-tune the network."""
    from data_plugin.frameworks.registry import find_framework

    if config is None:
        print("search a network of another size in the route with:")
        print(f"  {command('search_cls', '--supernet', route.supernet)} --images IMAGES")
        return
    kind = {"detection": "det", "segmentation": "seg"}[find_framework(None, str(route.configs[0]), None).task]
    root = [] if data_root is None else ["--data-root", data_root]
    print("fine-tune with:")
    trained = ["--config", route.configs[0], *root, "--out", route.out / "finetuned"]
    print(f"  {command(f'finetune_{kind}', *trained)}")
    print("or search a network of another size in the route with:")
    print(f"  {command(f'search_{kind}', '--supernet', route.supernet, '--config', config, *root)}")


def _positive(text: str) -> int:
    return whole(text, 1, "a number above 0")


if __name__ == "__main__":
    sys.exit(main())
