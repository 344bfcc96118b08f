"""Show the job on drawn images: search a supernet for a detector, fine-tune the winners and what they have to beat."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.frameworks.registry import find_framework
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.named_supernet import SHIPPED, named_supernet
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.framework_help import framework_help
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.search.found import Search

CONFIG = "faster_rcnn_c4_voc_demo"
"""The recipe of VOC, cut to what a CPU trains in a minute."""

IMAGE_SIZE = (320, 240)
GROUPS: Mapping[str, tuple[str, ...]] = {"mini": ("0.1-0.15",), "micro": ("0.1-0.12", "0.17-0.2")}
"""Budgets in each space: that of the supernet that comes with the package, and that of one's own."""

COMPARED = {
    "searched": ("search", "supernet", "the network that the search found"),
    "drawn": ("draw", "supernet", "a random network of the group, with the supernet's weights too"),
    "untrained": ("search", "random", "the searched network from random weights"),
}
"""What is fine-tuned of every group: where its architecture comes from, its weights, and what it is in words."""

PROGRESS = re.compile(r"Iter\((train|val)\) .*|iter: \d+ .*|.* weights, seed \d+: .*|.*[eE]rror: .*")
"""What the demo shows of a framework's log; its log file has all."""


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="output folder; an earlier demo is replaced"
    )
    parser.add_argument("--framework", help=framework_help("detection"))
    parser.add_argument(
        "--pretrain",
        action="store_true",
        help="pre-train a small supernet on the drawn images first, instead of the one that comes with the package",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    arguments = parser.parse_args(argv)
    run_demo(arguments.out, arguments.framework, arguments.seed, arguments.pretrain)
    return 0


def run_demo(out: Path, framework: str | None, seed: int, pretrain: bool = False) -> None:
    """Draw images, then run the commands of the main job on them as a user would.

    Args:
        out: output folder.
        framework: detection framework; None takes the first installed.
        seed: seed of everything random.
        pretrain: train a supernet for 150 steps instead of taking the one that comes with the package.

    Raises:
        UserError: if ``out`` holds anything but an earlier demo, the framework is not installed, or the supernet is
            missing.
    """
    from data_plugin.images.drawn_voc import draw_voc
    from data_plugin.search.found import Search

    began = time.monotonic()
    chosen = find_framework(framework, CONFIG, "detection")
    supernet: str | Path = out / "supernet" / "supernet.safetensors" if pretrain else SHIPPED
    if not pretrain:
        named_supernet(supernet)  # before anything is drawn
    _clear(out)
    print("Drawing images ...", flush=True)
    images = draw_voc(out / "data", train=160, test=40, size=IMAGE_SIZE, seed=seed, unlabelled=600 if pretrain else 0)

    if pretrain:
        _run(
            *("pretrain", "--data", images / "JPEGImages", "--space", "micro", "--out", out / "supernet"),
            *("--steps", 150, "--batch-size", 64, "--image-size", 64, "--seed", seed),
        )
    groups = GROUPS["micro" if pretrain else "mini"]
    common = ("--supernet", supernet, "--config", CONFIG, "--framework", chosen.name, "--data-root", out / "data")
    sizes = ("--samples", 20, "--image-count", 32, "--seed", seed)
    _run("search_det", *common, "--group", *groups, *sizes, "--out", out / "search")
    search = Search.read(out / "search")
    archs: dict[str, Sequence[object]] = {
        "search": [found.folder for found in search.winners],
        "draw": _draw(search, groups, seed),
    }
    for source, weights in (("search", ("supernet", "random")), ("draw", ("supernet",))):
        _run(
            *("finetune_alike", *common, "--arch", *archs[source], "--weights", *weights, "--seeds", seed),
            *("--out", out / "finetuned" / source),
            log=out / "finetuned" / f"{source}.log",
        )
    _show(out, search)
    print(f"\noutput: {out}   report: {out / 'search' / 'report.html'}   {(time.monotonic() - began) / 60:.1f} minutes")


def _draw(search: Search, groups: Sequence[str], seed: int) -> list[Arch]:
    """A random network of every group."""
    space = SearchSpace.from_json(search.report.run["supernet"]["space"])
    within = (partial(Budget.group(group).fits, costs={"flops": cost.flops}) for group in groups)
    return [space.sample(1, seed, fits)[0] for fits in within]


def _clear(out: Path) -> None:
    """Remove an earlier demo, and refuse to remove anything else."""
    mark = out / ".demo"
    if out.exists() and not mark.is_file() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not the output of an earlier demo; name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def _run(tool: str, *arguments: object, log: Path | None = None) -> None:
    """Print the command of a tool and run it; with ``log``, all its output goes there and its progress here."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ data-{tool.replace('_', '-')} {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", f"data_plugin.tools.{tool}", *words]
    # Threads that spin while they wait slow a CPU down many times over when anything else runs on it.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    code = (
        subprocess.run(command, env=environment).returncode if log is None else _run_logged(command, log, environment)
    )
    if code:
        where = "" if log is None else f"; its output is in {log}"
        raise UserError(f"data-{tool.replace('_', '-')} left with exit code {code}{where}")


def _run_logged(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
    ):
        for line in child.stdout or ():
            out.write(line)
            shown = PROGRESS.search(line)
            if shown:
                print(f"  {shown.group()[:150]}", flush=True)
    return child.returncode


def _show(out: Path, search: Search) -> None:
    from rich.console import Console
    from rich.table import Table

    from data_plugin.ranking.run import read_finetuned

    table = Table(box=None, pad_edge=False, title=f"{CONFIG}, {search.report.framework}")
    for heading in ("group", "network", "architecture", "GFLOPs", "AP", "AP50"):
        table.add_column(heading, no_wrap=True)
    done = {source: read_finetuned(out / "finetuned" / source) for source, _, _ in COMPARED.values()}
    for index, group in enumerate(search.report.budgets):
        for name, (source, weights, _) in COMPARED.items():
            row = [each for each in done[source] if each.weights == weights][index]
            figures = (row.flops / 1e9, ".3f"), (row.metrics["AP"], ".1f"), (row.metrics["AP50"], ".1f")
            table.add_row(group, name, str(row.arch), *(format(*figure) for figure in figures))
    Console().print(table)
    print("\n".join(f"{name}: {what}" for name, (_, _, what) in COMPARED.items()))


if __name__ == "__main__":
    sys.exit(main())
