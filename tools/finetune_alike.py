"""Fine-tune networks of a supernet alike, from its weights and from random ones: what are size and weights worth?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules

if TYPE_CHECKING:
    from data_plugin.ranking.run import Comparison, Finetuned


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="finetune_alike.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--supernet",
        required=True,
        help="supernet.safetensors that pre-training wrote, or 'shipped' for the one that comes with the package",
    )
    parser.add_argument("--config", required=True, help="config name or path of a detector or segmenter")
    parser.add_argument("--out", required=True, type=Path, help="folder of all trainings and comparison.json")
    add_data_root_argument(parser)
    add_import_argument(parser)
    parser.add_argument("--framework", help=framework_help(None))
    parser.add_argument(
        "--arch",
        nargs="+",
        default=["smallest", "middle", "largest"],
        help="smallest, middle, largest, an architecture, or the folder of a search's winner",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        choices=["supernet", "random"],
        default=["supernet", "random"],
        help="what backbones start from",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="every network is trained with each of them")
    parser.add_argument(
        "--iterations", type=int, help="length of every training, its schedule in proportion (default: the config's)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what the output folder holds")
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )
    arguments = parser.parse_args(argv)

    from data_plugin.ranking.run import finetune_alike

    import_modules(arguments.imports)
    comparison = finetune_alike(
        arguments.supernet,
        arguments.config,
        arguments.out,
        archs=arguments.arch,
        weights=arguments.weights,
        seeds=arguments.seeds,
        framework=arguments.framework,
        data_root=arguments.data_root,
        options=arguments.opts,
        iterations=arguments.iterations,
        resume=arguments.resume,
        done=_print_done,
    )
    _print_table(comparison)
    return 0


def _print_done(finetuned: Finetuned) -> None:
    metrics = "  ".join(f"{name} {value:.1f}" for name, value in finetuned.metrics.items())
    print(f"{finetuned.name}, {finetuned.weights} weights, seed {finetuned.seed}: {metrics}", flush=True)


def _print_table(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"{comparison.metric} of {comparison.settings['config']}")
    for heading in ("network", "GFLOPs", "architecture", "weights", "mean", "seeds"):
        table.add_column(heading, no_wrap=True)
    for each in {(one.name, one.weights): one for one in comparison.finetuned}.values():
        values = comparison.values(each.name, each.weights)
        mean, seeds = sum(values) / len(values), "  ".join(f"{value:.1f}" for value in values)
        table.add_row(each.name, f"{each.flops / 1e9:.3f}", str(each.arch), each.weights, f"{mean:.1f}", seeds)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
