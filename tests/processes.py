"""Processes that find each other as torchrun's do, forked: starting Python anew takes most of a short test."""

import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import torch


def in_processes(folder: Path, count: int, run: Callable[..., int | None], *arguments: object) -> str:
    """Call a function in processes that may join one process group, and return what they print.

    Args:
        folder: where what they print is kept.
        count: how many.
        run: the function, such as a tool's ``main``, whose exit code has to be 0; what it changes in modules is lost
            with its process.
        arguments: its arguments.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    said = [folder / f"said-{rank}" for rank in range(count)]
    processes = [
        fork.Process(target=_run, args=(said[rank], rank, count, port, run, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for ended in wait(list(running)):
            process = running.pop(ended)
            process.join()
            if process.exitcode:
                for other in running.values():  # which would wait for the one that failed
                    other.terminate()
    text = "".join(path.read_text() for path in said)
    codes = [process.exitcode for process in processes]
    assert codes == [0] * count, f"exit codes {codes}: {text[-3000:]}"
    return text


def run_script(path: Path, *arguments: object) -> None:
    """Run a script, such as a framework's own launcher, as Python does that is started with it."""
    sys.argv = [str(path), *map(str, arguments)]
    runpy.run_path(str(path), run_name="__main__")


def _run(said: Path, rank: int, count: int, port: int, run: Callable[..., int | None], arguments: tuple) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    torch.set_num_threads(1)  # a forked process has lost the threads of its parent
    with said.open("w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        try:
            code = run(*arguments)
        except BaseException:
            traceback.print_exc()
            code = 1
    raise SystemExit(code if isinstance(code, int) else 0)
