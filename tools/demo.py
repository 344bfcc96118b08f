"""Show the whole job on drawn images: pre-train a supernet, search it for a detector, fine-tune the winners."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_plugin.frameworks.registry import find_framework
from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.framework_help import framework_help
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.search.found import Search

CONFIG = "faster_rcnn_c4_voc_demo"
"""The recipe of VOC, cut to what a CPU trains in two minutes."""

IMAGE_SIZE = (320, 240)
GROUPS = ("0.1-0.12", "0.17-0.2")

PROGRESS = re.compile(r"Iter\((train|val)\) .*|iter: \d+ .*|AP \d.*|.*[eE]rror: .*")
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
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    arguments = parser.parse_args(argv)
    run_demo(arguments.out, arguments.framework, arguments.seed)
    return 0


def run_demo(out: Path, framework: str | None, seed: int) -> None:
    """Draw images, then run the three commands of the main job on them as a user would.

    Args:
        out: output folder.
        framework: detection framework; None takes the first installed.
        seed: seed of everything random.

    Raises:
        UserError: if ``out`` holds anything but an earlier demo, or the framework is not installed.
    """
    from data_plugin.images.drawn_voc import draw_voc
    from data_plugin.search.found import Search

    start = time.monotonic()
    chosen = find_framework(framework, CONFIG, "detection")
    _clear(out)
    print("Drawing images ...", flush=True)
    images = draw_voc(out / "data", train=160, test=40, size=IMAGE_SIZE, seed=seed, unlabelled=600)

    _run(
        *("pretrain", "--data", images / "JPEGImages", "--space", "micro", "--out", out / "supernet"),
        *("--steps", 150, "--batch-size", 64, "--image-size", 64, "--seed", seed),
    )
    _run(
        *("search_det", "--config", CONFIG, "--framework", chosen.name, "--data-root", out / "data"),
        *("--supernet", out / "supernet" / "supernet.safetensors", "--group", *GROUPS, "--samples", 20),
        *("--images", 32, "--seed", seed, "--out", out / "search"),
    )
    search = Search.read(out / "search")
    for found in search.winners:
        _run(
            *("finetune_det", "--config", found.config, "--data-root", out / "data"),
            *("--out", out / "finetuned" / found.winner.budget),
            log=out / f"finetune_{found.winner.budget}.log",
        )
    _show(out, search)
    print(f"\noutput: {out}   report: {out / 'search' / 'report.html'}   {(time.monotonic() - start) / 60:.1f} minutes")


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

    table = Table(box=None, pad_edge=False, title=f"{CONFIG}, {search.report.framework}")
    for heading in ("group", "architecture", "GFLOPs", "params (M)", "score", "AP", "AP50"):
        table.add_column(heading, no_wrap=True)
    for winner in search.report.winners:
        metrics = json.loads((out / "finetuned" / winner.budget / "metrics.json").read_text())
        table.add_row(
            *(winner.budget, str(winner.arch), f"{winner.flops / 1e9:.3f}", f"{winner.params / 1e6:.2f}"),
            *(f"{winner.score:.4f}", f"{metrics['AP']:.1f}", f"{metrics['AP50']:.1f}"),
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
