"""Arguments and terminal output of the searches by a framework's config, for detection and segmentation."""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.classes_argument import add_classes_argument
from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.demo_data import demo_data
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules
from data_plugin.tools.number_arguments import iterations
from data_plugin.tools.search_cli import add_search_arguments, command, search_options
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.frameworks.framework import Task
    from data_plugin.search.found import Search


def add_config_search_arguments(parser: argparse.ArgumentParser, task: Task, example: str) -> None:
    """Add the arguments of a search by a framework's config.

    Args:
        parser: the tool's parser.
        task: what the config's model is for.
        example: a config name for the help text.
    """
    parser.add_argument("--config", required=True, help=f"config name such as {example}, or path")
    add_search_arguments(parser)
    add_data_root_argument(parser)
    parser.add_argument(
        "--demo-data",
        action="store_true",
        help="draw a small data set to try the search on, below runs/demo-data, instead of a data root",
    )
    add_classes_argument(parser, task)
    add_import_argument(parser)
    parser.add_argument("--framework", help=framework_help(task))
    parser.add_argument(
        "--finetune",
        type=iterations,
        metavar="N",
        help="then fine-tune every winner for N iterations, and as much what one would take without a search: a "
        "random network, those with most FLOPs and parameters, and one of ResNet-50's shape, this one from random "
        "weights too; --resume goes on with it",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="SOURCE",
        help="search on these unlabelled images, through the config's test-time preprocessing: a folder of images at "
        "any depth, or of .tar shards, one shard, or a .txt file that names an image a line (default: the config's "
        "training images)",
    )
    parser.add_argument(
        "--route",
        type=Path,
        metavar="CODES",
        help="codes that a supernet with groups was trained with: first find the sub-net that has seen such images, as "
        "data-route does, beside the output folder, and search within it (default: --supernet has no groups)",
    )
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )


def search_and_print(arguments: argparse.Namespace, task: Task, finetune: str) -> None:
    """Run the search and, in the first process, print the winners, how sure they are, and how to fine-tune them.

    Args:
        arguments: what :func:`add_config_search_arguments` parsed.
        task: what the config's model is for.
        finetune: the tool that fine-tunes a winner, ``finetune_det`` or ``finetune_seg``.
    """
    from data_plugin.ranking.searched import require_one_process
    from data_plugin.search.finished import finished_search
    from data_plugin.search.options import SearchOptions
    from data_plugin.search.report.folder import numbered_folder
    from data_plugin.search.run import plan_search, run_search

    import_modules(arguments.imports)
    data_root = arguments.data_root
    if arguments.demo_data:
        if arguments.images is not None:
            raise UserError("--images and --demo-data each say what to search on; expected one of them")
        data_root = demo_data(task)
    if arguments.finetune is not None:
        require_one_process()
    if arguments.route is not None:
        arguments.supernet = _route(arguments, data_root)
    options = SearchOptions(
        **search_options(arguments, data_root=data_root, images=arguments.images),
        config=arguments.config,
        task=task,
        framework=arguments.framework,
        data_root=data_root,
        classes=arguments.classes,
        images=arguments.images,
        options=arguments.opts,
    )
    if arguments.dry_run:
        plan = plan_search(options)
        if plan is not None:
            print(f"{plan}{_then(arguments.finetune)}")
        return
    search = None
    if arguments.finetune is not None and arguments.resume:
        options = replace(options, out=options.out or numbered_folder(options.config, resume=True, finetune=True))
        search = finished_search(options)
    if search is None:
        search = run_search(options, lambda plan: print(f"{plan}{_then(arguments.finetune)}\n", flush=True))
        if search is None:
            return
        print(search)
        print(f"\nreport: {search.out / 'report.html'}")
        _print_finetuning(search, finetune, arguments.imports)
    if arguments.finetune is not None:
        _finetune(search, arguments.finetune)


def _route(arguments: argparse.Namespace, data_root: Path | None) -> str:
    """The sub-net that has seen images like the task's, as a supernet; the output folder gets a name by the way."""
    from data_plugin.routing.run import finished_route, route_supernet
    from data_plugin.search.report.folder import numbered_folder

    resume = arguments.resume
    arguments.out = arguments.out or numbered_folder(arguments.config, resume, arguments.finetune is not None)
    folder = arguments.out.with_name(f"{arguments.out.name}-route")
    if arguments.dry_run:  # which leaves nothing behind
        folder = Path(tempfile.mkdtemp(), folder.name)
        atexit.register(shutil.rmtree, folder.parent)
    elif resume and (supernet := finished_route(folder, arguments.supernet, arguments.route)) is not None:
        return str(supernet)
    route = route_supernet(
        arguments.supernet,
        arguments.config,
        codes=arguments.route,
        out=folder,
        images=arguments.images,
        framework=arguments.framework,
        data_root=data_root,
        classes=arguments.classes,
        options=arguments.opts,
        arch="smallest",  # which is not what is searched for
        seed=arguments.seed,
        device=arguments.device,
        overwrite=arguments.overwrite,
    )
    print(f"{route}\n", flush=True)
    return str(route.supernet)


def _then(length: int | None) -> str:
    """What comes after the search, as a line below its plan."""
    if length is None:
        return ""
    return f"\nthen      fine-tunes winners and rivals for {length} iterations each, six a budget at the most"


def _finetune(search: Search, length: int) -> None:
    """Fine-tune winners and rivals, and print the report with what they come to."""
    from data_plugin.ranking.rivals import FOLDER, finetune_rivals

    print(f"\nfine-tuning winners and rivals for {length} iterations each, below {search.out / FOLDER}", flush=True)
    print(f"\n{finetune_rivals(search, length)}\n\nreport: {search.out / 'report.html'}")


def _print_finetuning(search: Search, finetune: str, imports: Sequence[str]) -> None:
    """The commands that fine-tune every winner or, of a front, its closest network, and that check the ranking."""
    print("fine-tune the closest network of every front with:" if search.report.pareto else "fine-tune with:")
    root = ["--data-root", search.report.data_root] if search.report.data_root else []
    modules = ["--import", *imports] if imports else []
    for found in search.closest:
        trained = ["--config", found.config, *root, *modules, "--out", found.folder / "finetuned"]
        print(f"  {command(finetune, *trained)}")
    print("see whether fine-tuning ranks the networks as the search does with:")
    print(f"  {command('rank_check', '--search', search.out, *modules, '--finetune')} N")
