"""Arguments that the search tools share, and the options that they become."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_plugin.tools.number_arguments import size, whole
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.search.strategies.strategy import Strategy


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every search.

    Args:
        parser: the tool's parser.
    """
    parser.add_argument(
        "--supernet",
        default="shipped",
        help="supernet.safetensors that pre-training wrote; default: %(default)s, the one that comes with the package",
    )
    parser.add_argument(
        "--out", type=Path, help="output folder (default: runs/NAME-1, -2 and on, by the config or folder)"
    )
    parser.add_argument(
        "--group", nargs="+", action="extend", default=[], help="budgets between two costs in GFLOPs, such as 3-4 4-5"
    )
    parser.add_argument(
        "--budget", nargs="+", action="extend", default=[], help="budgets such as 'flops<=4.0G and params<=30M'"
    )
    parser.add_argument(
        "--all-groups",
        action="store_true",
        help="the paper's groups, 1-2 to 7-8, that hold a network; five of about as many networks where none does "
        "(default, where neither --group nor --budget is given)",
    )
    parser.add_argument(
        "--input-size",
        type=size,
        metavar="N|HxW",
        help="pixels at which FLOPs are counted (default 224, at output stride 32 as in the papers) and latency and "
        "memory measured (default: that of the images, at the model's strides)",
    )
    parser.add_argument(
        "--latency-table",
        type=Path,
        metavar="table.json",
        help="latencies of another device, as data-measure-latency wrote them there, for budgets of latency "
        "(default: measured on this device)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--samples", type=int, default=100, help="networks drawn per budget (default: %(default)s)")
    which.add_argument("--exhaustive", action="store_true", help="compare every network within a budget")
    which.add_argument("--evolve", action="store_true", help="find networks by mutation and crossover")
    parser.add_argument("--population", type=int, help="networks of a generation of --evolve (default: 100)")
    parser.add_argument("--generations", type=int, help="generations of --evolve after the first (default: 20)")
    parser.add_argument(
        "--halve",
        type=_confidence,
        metavar="CONFIDENCE",
        help="search in rounds of more and more images, and drop networks that are behind at this confidence, "
        "such as 0.95",
    )
    parser.add_argument(
        "--pareto",
        action="store_true",
        help="answer every budget with its whole Pareto front, score against the budgeted cost, each network with "
        "weights and configs",
    )
    parser.add_argument(
        "--image-count",
        type=count_or_all,
        metavar="N",
        default=256,
        help="images drawn, or 'all' (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch (default: %(default)s)")
    parser.add_argument(
        "--taps",
        help="feature maps to compare, such as C4,C5, or z, the embedding that pre-training made of an image; default: "
        "the maps that the model reads, and z for classification",
    )
    parser.add_argument(
        "--reduction",
        choices=("mean", "sum"),
        default="mean",
        help="what becomes of the positions of a map: their mean, so that every map counts alike, or their sum as the "
        "paper's Eq. 5 prints it, where the largest map decides (default: %(default)s)",
    )
    parser.add_argument(
        "--search-teacher",
        nargs="+",
        metavar=("NETWORK", "KEY=VALUE"),
        default=(),
        help="compare with a frozen network of any kind instead of the supernet's largest, at C4 and C5: timm:NAME, "
        "torchvision:NAME, hub:FOLDER:NAME, module:callable, the file of a supernet or ResNet, or pre-training for the "
        "one that taught the supernet; then, where its source does not tell, size=PIXELS mean=R,G,B std=R,G,B, and "
        "weights=FILE",
    )
    parser.add_argument(
        "--norm",
        choices=("batch", "recalibrated", "running"),
        default="batch",
        help="what batch norms normalise with in the search (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="what features are computed in; distances are in float32 always (default: %(default)s)",
    )
    parser.add_argument(
        "--relation-rows",
        type=_rows,
        metavar="N",
        help="estimate every relation from N drawn rows, unbiased (default: all rows, exact)",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="bound on the tensors that are held at once, such as 4GB; larger batches are compared in parts, each with "
        "batch-norm statistics of its own (default: what is free on the device, without changing the result)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of the drawn networks, images and rows (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the unfinished search in --out, or start it if it has not begun; without --out, with the "
        "newest unfinished one of this config or folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that is not empty")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and about how long it takes, and stop"
    )


def search_options(arguments: argparse.Namespace, **inputs: Path | None) -> dict[str, Any]:
    """What :func:`add_search_arguments` parsed, as fields of :class:`~data_plugin.search.options.SearchOptions`.

    Args:
        arguments: what was parsed.
        inputs: what else is read, by what messages call it.

    Raises:
        UserError: if an argument does not fit another, or the output folder would be replaced with an input in it.
    """
    from data_plugin.search.memory import parse_bytes
    from data_plugin.search.taps import parse_taps
    from data_plugin.space.budget import Budget
    from data_plugin.supernet.named_supernet import named_supernet

    if arguments.overwrite and arguments.out is not None:
        read = {"supernet": named_supernet(arguments.supernet), "latency_table": arguments.latency_table, **inputs}
        require_outside(arguments.out, {name.replace("_", " "): path for name, path in read.items()})
    same: tuple[str, ...] = (
        "supernet",
        "out",
        "input_size",
        "latency_table",
        "image_count",
        "batch_size",
        "reduction",
        "norm",
    )
    same += ("precision", "relation_rows", "search_teacher", "seed", "device", "overwrite", "resume", "pareto")
    return {
        **{name: getattr(arguments, name) for name in same},
        "budgets": [*map(Budget.group, arguments.group), *map(Budget.parse, arguments.budget)],
        "every_group": arguments.all_groups,
        "strategy": _strategy(arguments),
        "taps": None if arguments.taps is None else parse_taps(arguments.taps),
        "max_memory": None if arguments.max_memory is None else parse_bytes(arguments.max_memory),
    }


def command(tool: str, *words: object) -> str:
    """The command line that runs another tool here, from whatever folder.

    Args:
        tool: the tool's module, such as ``finetune_det``.
        words: its arguments.
    """
    installed = f"data-{tool.replace('_', '-')}"
    start = [installed] if shutil.which(installed) else [sys.executable, "-m", f"data_plugin.tools.{tool}"]
    return shlex.join([*start, *map(str, words)])


def _strategy(arguments: argparse.Namespace) -> Strategy:
    """How candidates are found, as it was asked for."""
    from data_plugin.search.strategies.evolution import Evolution
    from data_plugin.search.strategies.exhaustive import Exhaustive
    from data_plugin.search.strategies.halving import Halving
    from data_plugin.search.strategies.sample import Sample

    sizes = {"population": arguments.population, "generations": arguments.generations}
    given = {name: size for name, size in sizes.items() if size is not None}
    if given and not arguments.evolve:
        raise UserError(f"--{next(iter(given))} says how to evolve; expected --evolve with it")
    if arguments.evolve and arguments.halve is not None:
        raise UserError("evolution and halving were both asked for; expected one of them")
    if arguments.evolve:
        return Evolution(**given)
    start = Exhaustive() if arguments.exhaustive else Sample(arguments.samples)
    return start if arguments.halve is None else Halving(start, arguments.halve)


def require_outside(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Check that replacing the output folder deletes no input.

    Args:
        out: the folder.
        inputs: files and folders that are read, by what they are called; None where there is none.

    Raises:
        UserError: if one is in it.
    """
    for name, path in inputs.items():
        if path is not None and path.resolve().is_relative_to(out.resolve()):
            raise UserError(f"--overwrite would delete the {name} {path} with the output folder {out}; name another")


def count_or_all(text: str) -> int | None:
    """A number of images, or None for all."""
    if text == "all":
        return None
    return whole(text, least=1, expected="a number of at least 1, or all")


def _rows(text: str) -> int:
    return whole(text, least=2, expected="a number of at least 2")


def _confidence(text: str) -> float:
    try:
        confidence = float(text)
    except ValueError:
        confidence = float("nan")
    if not 0.5 < confidence < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; expected more than 0.5 and less than 1, such as 0.95")
    return confidence


def _seed(text: str) -> int:
    return whole(text, least=0, expected="a number of at least 0")
