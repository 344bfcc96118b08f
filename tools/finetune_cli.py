"""Arguments and terminal output that the fine-tuning tools share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.classes_argument import add_classes_argument
from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules

if TYPE_CHECKING:
    from data_plugin.frameworks.framework import Task


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
        arguments.config,
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
