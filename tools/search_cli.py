"""Arguments and terminal output that the search tools share."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.tools.classes_argument import add_classes_argument
from data_plugin.tools.data_root_argument import add_data_root_argument
from data_plugin.tools.demo_data import demo_data
from data_plugin.tools.framework_help import framework_help
from data_plugin.tools.import_argument import add_import_argument, import_modules
from data_plugin.tools.number_arguments import size, whole
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.frameworks.framework import Task
    from data_plugin.search.found import Search
    from data_plugin.search.strategies.strategy import Strategy


def add_search_arguments(parser: argparse.ArgumentParser, task: Task, example: str) -> None:
    """Add the arguments of a search.

    Args:
        parser: the tool's parser.
        task: what the config's model is for.
        example: a config name for the help text.
    """
    parser.add_argument("--config", required=True, help=f"config name such as {example}, or path")
    parser.add_argument(
        "--supernet",
        default="shipped",
        help="supernet.safetensors that pre-training wrote; default: %(default)s, the one that comes with the package",
    )
    parser.add_argument("--out", type=Path, help="output folder (default: runs/CONFIG-1, -2 and on)")
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
        "memory measured (default: the config's, at its strides)",
    )
    parser.add_argument(
        "--latency-table",
        type=Path,
        metavar="table.json",
        help="latencies of another device, as data-measure-latency wrote them there, for budgets of latency "
        "(default: measured on this device)",
    )
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
        type=_iterations,
        metavar="N",
        help="then fine-tune every winner for N iterations, and as much what one would take without a search: a "
        "random network, those with most FLOPs and parameters, and one of ResNet-50's shape, this one from random "
        "weights too; --resume goes on with it",
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
        "--images",
        type=Path,
        metavar="SOURCE",
        help="search on these unlabelled images, through the config's test-time preprocessing: a folder of images at "
        "any depth, or of .tar shards, one shard, or a .txt file that names an image a line (default: the config's "
        "training images)",
    )
    parser.add_argument(
        "--image-count",
        type=_count_or_all,
        metavar="N",
        default=256,
        help="images drawn, or 'all' (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch (default: %(default)s)")
    parser.add_argument(
        "--taps",
        help="feature maps to compare, such as C4,C5, or z, the embedding that pre-training made of an image; default: "
        "the maps that the model reads",
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
        "newest unfinished one of this config",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that is not empty")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and about how long it takes, and stop"
    )
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )


def search_and_print(arguments: argparse.Namespace, task: Task, finetune: str) -> None:
    """Run the search and, in the first process, print the winners, how sure they are, and how to fine-tune them.

    Args:
        arguments: what :func:`add_search_arguments` parsed.
        task: what the config's model is for.
        finetune: the tool that fine-tunes a winner, ``finetune_det`` or ``finetune_seg``.
    """
    from data_plugin.ranking.rivals import require_one_process
    from data_plugin.search.finished import finished_search
    from data_plugin.search.memory import parse_bytes
    from data_plugin.search.report.folder import numbered_folder
    from data_plugin.search.run import SearchOptions, plan_search, run_search
    from data_plugin.search.taps import parse_taps
    from data_plugin.space.budget import Budget
    from data_plugin.supernet.named_supernet import named_supernet

    import_modules(arguments.imports)
    data_root = arguments.data_root
    if arguments.demo_data:
        if arguments.images is not None:
            raise UserError("--images and --demo-data each say what to search on; expected one of them")
        data_root = demo_data(task)
    if arguments.overwrite and arguments.out is not None:
        inputs = {"supernet": named_supernet(arguments.supernet), "data root": data_root, "images": arguments.images}
        inputs["latency table"] = arguments.latency_table
        _require_outside(arguments.out, inputs)
    if arguments.finetune is not None:
        require_one_process()
    options = SearchOptions(
        config=arguments.config,
        supernet=arguments.supernet,
        out=arguments.out,
        task=task,
        framework=arguments.framework,
        data_root=data_root,
        classes=arguments.classes,
        budgets=[*map(Budget.group, arguments.group), *map(Budget.parse, arguments.budget)],
        every_group=arguments.all_groups,
        input_size=arguments.input_size,
        latency_table=arguments.latency_table,
        strategy=_strategy(arguments),
        images=arguments.images,
        image_count=arguments.image_count,
        batch_size=arguments.batch_size,
        taps=None if arguments.taps is None else parse_taps(arguments.taps),
        reduction=arguments.reduction,
        norm=arguments.norm,
        precision=arguments.precision,
        relation_rows=arguments.relation_rows,
        search_teacher=arguments.search_teacher,
        max_memory=None if arguments.max_memory is None else parse_bytes(arguments.max_memory),
        seed=arguments.seed,
        device=arguments.device,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        pareto=arguments.pareto,
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


def _then(iterations: int | None) -> str:
    """What comes after the search, as a line below its plan."""
    if iterations is None:
        return ""
    return f"\nthen      fine-tunes winners and rivals for {iterations} iterations each, six a budget at the most"


def _finetune(search: Search, iterations: int) -> None:
    """Fine-tune winners and rivals, and print the report with what they come to."""
    from data_plugin.ranking.rivals import FOLDER, finetune_rivals

    print(f"\nfine-tuning winners and rivals for {iterations} iterations each, below {search.out / FOLDER}", flush=True)
    print(f"\n{finetune_rivals(search, iterations)}\n\nreport: {search.out / 'report.html'}")


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


def _require_outside(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Check that replacing the output folder deletes no input."""
    for name, path in inputs.items():
        if path is not None and path.resolve().is_relative_to(out.resolve()):
            raise UserError(f"--overwrite would delete the {name} {path} with the output folder {out}; name another")


def _print_finetuning(search: Search, finetune: str, imports: Sequence[str]) -> None:
    """The command that fine-tunes every winner or, of a front, its closest network."""
    closest = {found.winner.budget: found for found in sorted(search.winners, key=lambda found: -found.winner.score)}
    shown = [closest[budget] for budget in dict.fromkeys(found.winner.budget for found in search.winners)]
    print("fine-tune the closest network of every front with:" if search.report.pareto else "fine-tune with:")
    root = ["--data-root", search.report.data_root] if search.report.data_root else []
    modules = ["--import", *imports] if imports else []
    for found in shown:
        command = [*_command(finetune), "--config", str(found.config), *root, *modules]
        command += ["--out", str(found.folder / "finetuned")]
        print("  " + shlex.join(command))


def _command(tool: str) -> list[str]:
    """What runs another tool here, from whatever folder."""
    installed = f"data-{tool.replace('_', '-')}"
    return [installed] if shutil.which(installed) else [sys.executable, "-m", f"data_plugin.tools.{tool}"]


def _count_or_all(text: str) -> int | None:
    if text == "all":
        return None
    return whole(text, least=1, expected="a number of at least 1, or all")


def _iterations(text: str) -> int:
    return whole(text, least=1, expected="a number of iterations, at least 1")


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
