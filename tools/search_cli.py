"""Arguments and terminal output that the search tools share."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path


def add_search_arguments(parser: argparse.ArgumentParser, frameworks: Sequence[str], example: str) -> None:
    """Add the arguments of a search.

    Args:
        parser: the tool's parser.
        frameworks: frameworks of the task, in order of preference.
        example: a config name for the help text.
    """
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--config", required=True, help=f"config name such as {example}, or path")
    parser.add_argument("--supernet", required=True, type=Path, help="supernet.safetensors that pre-training wrote")
    parser.add_argument("--out", required=True, type=Path, help="output folder")
    parser.add_argument(
        "--group", nargs="+", action="extend", default=[], help="budgets between two costs in GFLOPs, such as 3-4 4-5"
    )
    parser.add_argument(
        "--budget", nargs="+", action="extend", default=[], help="budgets such as 'flops<=4.0G and params<=30M'"
    )
    parser.add_argument("--all-groups", action="store_true", help="the groups 1-2 to 7-8, as in the paper")
    parser.add_argument(
        "--input-size",
        type=_size,
        metavar="N|HxW",
        help="pixels at which FLOPs are counted (default 224, at output stride 32 as in the papers) and latency and "
        "memory measured (default: the config's, at its strides)",
    )
    parser.add_argument("--data-root", type=Path, help="folder of the data sets, instead of the config's")
    parser.add_argument("--framework", help=f"one of {', '.join(frameworks)}; default: the first installed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--samples", type=int, default=100, help="networks drawn per budget")
    which.add_argument("--exhaustive", action="store_true", help="compare every network within a budget")
    which.add_argument("--evolve", action="store_true", help="find networks by mutation and crossover")
    parser.add_argument("--population", type=int, default=100, help="networks of a generation of --evolve")
    parser.add_argument("--generations", type=int, default=20, help="generations of --evolve after the first")
    parser.add_argument(
        "--halve",
        type=float,
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
    parser.add_argument("--images", type=_count_or_all, default=256, help="training images drawn, or 'all'")
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch")
    parser.add_argument("--taps", help="feature maps to compare, such as C4,C5; default: those the model reads")
    parser.add_argument(
        "--norm",
        choices=("batch", "recalibrated", "running"),
        default="batch",
        help="what batch norms normalise with in the search",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="what features are computed in; distances are in float32 always",
    )
    parser.add_argument(
        "--relation-rows",
        type=int,
        metavar="N",
        help="estimate every relation from N drawn rows, unbiased (default: all rows, exact)",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="bound on the tensors that are held at once, such as 4GB; larger batches are compared in parts (default: "
        "70%% of what is free on the device)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn networks, images and rows")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished search in --out")
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that is not empty")
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the framework's config"
    )


def search_and_print(arguments: argparse.Namespace, frameworks: Sequence[str], finetune: str) -> None:
    """Run the search and, in the first process, print the winners, how sure they are, and how to fine-tune them.

    Args:
        arguments: what :func:`add_search_arguments` parsed.
        frameworks: frameworks of the task, in order of preference.
        finetune: the tool that fine-tunes a winner.
    """
    from data_plugin.evolution import Evolution
    from data_plugin.framework import CONFIG_ENDING
    from data_plugin.search_memory import parse_bytes
    from data_plugin.search_run import SearchOptions, run_search

    winners = run_search(
        SearchOptions(
            config=arguments.config,
            framework=arguments.framework,
            supernet=arguments.supernet,
            data_root=arguments.data_root,
            out=arguments.out,
            groups=arguments.group,
            budgets=arguments.budget,
            all_groups=arguments.all_groups,
            input_size=arguments.input_size,
            samples=None if arguments.exhaustive else arguments.samples,
            images=arguments.images,
            batch_size=arguments.batch_size,
            taps=arguments.taps,
            norm=arguments.norm,
            precision=arguments.precision,
            relation_rows=arguments.relation_rows,
            max_memory=None if arguments.max_memory is None else parse_bytes(arguments.max_memory),
            seed=arguments.seed,
            device=arguments.device,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            evolve=Evolution(arguments.population, arguments.generations) if arguments.evolve else None,
            halve=arguments.halve,
            pareto=arguments.pareto,
            options=arguments.opts,
        ),
        frameworks,
    )
    if not winners:
        return
    print(f"{'budget':<12}{'architecture':<30}{'GFLOPs':>8}{'params (M)':>12}  score")
    for winner in winners:
        cost = f"{winner.flops / 1e9:>8.3f}{winner.params / 1e6:>12.2f}"
        print(f"{winner.budget:<12}{winner.arch!s:<30}{cost}  {_with_error(winner.score, winner.standard_error)}")
    for winner in winners:
        name = f"{winner.budget}: {winner.arch}" if arguments.pareto else winner.budget
        at_that_cost = " at no more cost" if arguments.pareto else ""
        if winner.margin is None:
            print(f"{name}: it is the only candidate{at_that_cost}")
        else:
            lead = f"leads {winner.runner_up}{at_that_cost} by {_with_error(winner.margin, winner.margin_error)}"
            print(f"{name}: {lead}{'' if winner.distinguishable else ' (not distinguishable)'}")
    for winner in winners:
        for quantity, (composed, whole) in winner.measured.items():
            apart = composed / whole - 1
            print(f"{winner.budget}: {quantity} {composed:.4g} from its blocks, {whole:.4g} whole ({apart:+.1%})")
    run = json.loads((arguments.out / "search.json").read_text())
    if arguments.relation_rows:
        most = max(winner.sampling_error for winner in winners)
        share = f"up to {most:.2g} of the standard errors" if most else "no map has more, so they are exact"
        print(f"relations from {arguments.relation_rows} drawn rows: {share}")
    if run["split"]["split"]:
        print(
            "compared in parts to stay within the memory: {split} of {batches} batches, up to {most_parts} parts; "
            "batch-norm statistics are {batch_norm_statistics}".format(**run["split"])
        )
    dropped = run["dropped"]
    if dropped:
        print(f"dropped before they saw all images: {dropped['count']} networks, at confidence {dropped['confidence']}")
    print(f"\nreport: {arguments.out / 'report.html'}\nfine-tune with:")
    for winner in winners:
        folder = arguments.out / winner.folder
        for ending in dict.fromkeys(CONFIG_ENDING.values()):
            for config in sorted(folder.glob(f"*{ending}")):
                root = ["--data-root", str(arguments.data_root)] if arguments.data_root else []
                print(
                    "  "
                    + shlex.join(["python", finetune, "--config", str(config), *root, "--out", f"{folder}/finetuned"])
                )


def _count_or_all(text: str) -> int | None:
    if text == "all":
        return None
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.5g}" if error is None else f"{value:.5g} ± {error:.2g}"
