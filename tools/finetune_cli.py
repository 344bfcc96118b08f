"""Arguments and terminal output that the fine-tuning tools share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.classes_argument import add_classes_argument
from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.frameworks.framework import Task

BACKBONE = "backbone"
"""Where the network of --arch and its config are, below the output folder."""


def add_finetune_arguments(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add the arguments of a fine-tuning run.

    Args:
        parser: the tool's parser.
        task: what the models are for.
    """
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--config", required=True, help="config that a search wrote, or a config name or path")
    parser.add_argument("--out", required=True, type=Path, help="folder of checkpoints, logs and metrics.json")
    add_data_root_argument(parser)
    add_classes_argument(parser, task)
    add_import_argument(parser)
    parser.add_argument("--framework", help=framework_help(task))
    parser.add_argument(
        "--arch",
        help="a network of --supernet in the place of the config's backbone: smallest, middle, largest, one such as "
        "d3-2-17-3_w32-48-96-192-512, a file that holds one, or a winner's folder",
    )
    parser.add_argument("--supernet", help="supernet.safetensors, or 'shipped', whose weights --arch starts from")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    start.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--weights", type=Path, help="detector checkpoint to evaluate; default: the last in --out")
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )


def finetune_and_print(arguments: argparse.Namespace, task: Task) -> None:
    """Run the fine-tuning and, in the first process, print its metrics.

    Args:
        arguments: what :func:`add_finetune_arguments` parsed.
        task: what the models are for.
    """
    from data_plugin.frameworks.run import run_finetune
    from data_plugin.utils.ranks import rank

    import_modules(arguments.imports)
    metrics = run_finetune(
        arguments.config if arguments.arch is None and arguments.supernet is None else _written(arguments, task),
        arguments.out,
        task,
        framework=arguments.framework,
        data_root=arguments.data_root,
        classes=arguments.classes,
        options=arguments.opts,
        resume=arguments.resume,
        eval_only=arguments.eval_only,
        weights=arguments.weights,
    )
    if rank() == 0:
        print("  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))


def _written(arguments: argparse.Namespace, task: Task) -> str:
    """The config with the network that was asked for, in the output folder."""
    from data_plugin.frameworks.framework_config import LAST_CHECKPOINT
    from data_plugin.frameworks.registry import find_framework
    from data_plugin.ranking.run import write_network
    from data_plugin.supernet.checkpoint import load_supernet
    from data_plugin.supernet.named_networks import named_networks

    if arguments.arch is None or arguments.supernet is None:
        given, other = ("--arch", "--supernet") if arguments.supernet is None else ("--supernet", "--arch")
        raise UserError(f"{given} is given without {other}; a network is taken out of a supernet, name both")
    folder = arguments.out / BACKBONE
    path = folder / find_framework(arguments.framework, arguments.config, task).configs.file_name(arguments.config)
    if (arguments.out / LAST_CHECKPOINT).is_file() and path.is_file():  # what was begun goes on, or is refused
        space = load_supernet(arguments.supernet).info.space
        if named_networks([arguments.arch], space) != named_networks([str(folder)], space):
            raise UserError(f"{arguments.out} holds a run of another network than {arguments.arch}; name another --out")
        return str(path)
    # Under torchrun every process does so: they write the same files, each whole.
    options = {name: getattr(arguments, name) for name in ("framework", "data_root", "classes")}
    written = write_network(
        arguments.supernet, arguments.config, folder, arguments.arch, task, options=arguments.opts, **options
    )
    return str(written)
