"""Run a table of the papers, at a scale for a CPU or the paper's own, and put our rows beside the paper's."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.number_arguments import whole
from data_plugin.tools.quiet_lightning import quiet_lightning
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.frameworks.finetuned import Finetuned
    from data_plugin.reproduce.run import Reproduction

ARRAY = "SLURM_ARRAY_TASK_ID"
"""What SLURM calls the number of a job in an array, from 0 for the first row."""

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
"""What tells a process of torchrun or SLURM that it is one of several."""


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(prog="reproduce.py", description=__doc__)
    parser.add_argument(
        "table",
        help="table2 to table10 or figure3 of DATA, or a .toml file like those in data_plugin/reproduce/recipes/",
    )
    parser.add_argument(
        "--scale", choices=("here", "paper"), required=True, help="small enough for days on a CPU, or the paper's"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder: a folder a row, table.md and table.json"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of all data sets (default: %(default)s)"
    )
    parser.add_argument(
        "--supernet", help="supernet.safetensors, or 'shipped' (default: what the table's recipe names)"
    )
    parser.add_argument("--rows", nargs="+", help=f"rows to run (default: all, or in a job array that of {ARRAY})")
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        help="rows that run at the same time, each on the next GPU; under torchrun, in each of its processes, which "
        "share the rows (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what the output folder holds")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run and what is missing, and stop")
    arguments = parser.parse_args(argv)

    from data_plugin.reproduce.run import foresee, open_table, reproduce, write_page
    from data_plugin.utils.ranks import launched_ranks

    quiet_lightning()
    reproduction = open_table(arguments.table, arguments.scale, arguments.data, arguments.out, arguments.supernet)
    rows = arguments.rows or _row_of_array(reproduction)
    outlooks, missing = foresee(reproduction)
    print(f"{reproduction.table.title}, scale {arguments.scale}, supernet {reproduction.supernet or 'none'}")
    for each in outlooks:
        print(
            f"  {each.row}: {each.trainings} fine-tunings of {each.networks} networks, {each.length} each; "
            f"{each.hours:,.1f} hours of {each.clock}, for the backbones alone"
        )
        missing += [f"{each.row}: {what}" for what in each.missing]
    print("\n".join(["missing:", *(f"  {what}" for what in missing)]) if missing else "nothing is missing", flush=True)
    if arguments.dry_run:
        return 0
    beside = launched_ranks()
    if arguments.jobs == 1 and beside == (1, 1):
        print(reproduce(reproduction, rows, resume=arguments.resume, done=_print_done))
        return 0
    rows = rows or list(reproduction.rows)
    if beside != (1, 1):
        number = int(os.environ.get("RANK") or os.environ["SLURM_PROCID"])
        rows = rows[number :: math.prod(beside)]
    _run_beside_one_another(arguments, rows)
    print(write_page(reproduction))
    return 0


def _row_of_array(reproduction: Reproduction) -> list[str] | None:
    """The row that a job array's job is for; None outside of one."""
    if ARRAY not in os.environ:
        return None
    names, number = list(reproduction.rows), int(os.environ[ARRAY])
    if number >= len(names):
        raise UserError(
            f"{ARRAY} is {number}; {reproduction.name} has {len(names)} rows: expected --array=0-{len(names) - 1}"
        )
    return [names[number]]


def _run_beside_one_another(arguments: argparse.Namespace, rows: Sequence[str]) -> None:
    """Run every row in a process of its own, some at a time, each on the next GPU where there are several."""
    command = [sys.executable, "-m", "data_plugin.tools.reproduce", arguments.table, "--scale", arguments.scale]
    command += ["--out", str(arguments.out), "--data", str(arguments.data)]
    command += ["--resume"] * arguments.resume
    command += ["--supernet", arguments.supernet] if arguments.supernet else []
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in _environments(arguments.jobs):
        free.put(environment)

    def run(row: str) -> int:
        environment = free.get()
        try:
            return subprocess.run([*command, "--rows", row], env=environment).returncode
        finally:
            free.put(environment)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = [row for row, code in zip(rows, pool.map(run, rows), strict=True) if code]
    if failed:
        raise UserError(f"the rows {', '.join(failed)} failed, as said above; correct it and go on with --resume")


def _environments(jobs: int) -> list[dict[str, str]]:
    """What so many processes see: each that it is alone, and one GPU where there are several."""
    import torch

    alone = {name: value for name, value in os.environ.items() if name not in RANKS}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    first = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "0")) * jobs
    if len(gpus) < 2:
        return [alone] * jobs
    return [{**alone, "CUDA_VISIBLE_DEVICES": gpus[(first + job) % len(gpus)]} for job in range(jobs)]


def _print_done(row: str, finetuned: Finetuned) -> None:
    metrics = "  ".join(f"{name} {value:.1f}" for name, value in finetuned.metrics.items())
    print(f"{row}: {finetuned.arch}, {finetuned.weights} weights, seed {finetuned.seed}: {metrics}", flush=True)


def _jobs(text: str) -> int:
    return whole(text, least=1, expected="a number of at least 1")


if __name__ == "__main__":
    sys.exit(main())
