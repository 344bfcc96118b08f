"""Working as one of several processes: under torchrun, under SLURM, or alone."""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from data_plugin.utils.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: some finish their share of a search hours before the last one does."""


@contextmanager
def joined_ranks() -> Iterator[None]:
    """For the time of a ``with``, join the processes that torchrun or SLURM started; alone there is nothing to join.

    Within another such ``with`` nothing changes. What is exchanged are small Python objects, so the processes talk over
    gloo whatever device they compute on. They wait for each other for up to :data:`PATIENCE`.

    Raises:
        UserError: if SLURM's list of nodes cannot be read.
    """
    if "WORLD_SIZE" not in os.environ and _under_slurm():
        os.environ.update(_from_slurm())
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def join_until_exit(backend: str) -> None:
    """Join the processes that torchrun started for the rest of this one's life.

    Args:
        backend: what they talk over: "gloo" or "nccl".
    """
    dist.init_process_group(backend)
    # Where leaving is left to the end of the interpreter, threads of gloo now and then abort the process.
    atexit.register(_leave)


def rank() -> int:
    """The number of this process, 0 to :func:`rank_count` - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def rank_count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank_count() -> int:
    """How many of the processes that work together share this machine; all of them where nothing tells."""
    told = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    return min(int(told or rank_count()), rank_count())


def launched_ranks() -> tuple[int, int]:
    """Processes on each node, and nodes, as torchrun or SLURM started them; 1 and 1 without either."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if _under_slurm():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def local_device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is this process's GPU where there is one, else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return local_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used here; expected auto, cpu or a GPU such as cuda:0"
        ) from error


def from_first(value: T) -> T:
    """What process 0 gave, in every process."""
    if rank_count() == 1:
        return value
    values: list[T] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_all(value: T) -> list[T]:
    """What every process gave, in the order of their numbers, in every process."""
    if rank_count() == 1:
        return [value]
    values: list[T] = [value] * rank_count()
    dist.all_gather_object(values, value)
    return values


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _under_slurm() -> bool:
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _from_slurm() -> dict[str, str]:
    """The variables that torchrun would set, from those that srun sets."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        first = listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f"SLURM started several tasks, but its list of nodes {nodes!r} cannot be read ({error}); "
            "start with torchrun, or set MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE"
        ) from error
    return {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", first),
        # Jobs that share a node need ports of their own.
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000)),
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
    }
