"""Sets up ``.venv`` with all that the demo and the tests need; a second call finds it done and returns at once.

What is installed, in which order and why: torch before mmcv, because mmcv compiles its operators against it and,
isolated from it, builds silently without them; detectron2 last, because it is published as a git repository alone,
which not every machine can reach.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
RECORDS = VENV / "set-up"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
INPUTS = (ROOT / "setup.py", CONSTRAINTS, Path(__file__).resolve())

PIP = (str(PYTHON), "-m", "pip")
INSTALL = (*PIP, "install", "--progress-bar", "off", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS))
NO_ISOLATION = (*INSTALL, "--no-build-isolation")


class Step(NamedTuple):
    """One step of the set-up: its name, what a user should know before waiting for it, and what it does."""

    name: str
    note: str
    act: Callable[[Log], str | None]


class StepFailed(Exception):
    """A command of a step failed."""


class Log:
    """Runs commands with their output in one file, and shows that something is going on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def run(self, *command: str) -> None:
        """Run a command; raises :class:`StepFailed` where it fails."""
        if self.returncode(*command):
            raise StepFailed

    def returncode(self, *command: str) -> int:
        """Run a command and give its exit status."""
        with self.path.open("a") as out:
            out.write(f"$ {' '.join(command)}\n")
            out.flush()
            child = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=out, stderr=subprocess.STDOUT)
            try:
                return self._watch(child)
            finally:
                child.terminate()
                child.wait()

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        terminal = sys.stdout.isatty()
        start = time.monotonic()
        while True:
            try:
                return child.wait(timeout=1 if terminal else 60)
            except subprocess.TimeoutExpired:
                minutes, seconds = divmod(int(time.monotonic() - start), 60)
                line = f"      {minutes}:{seconds:02d}  {(self.tail(1) or [''])[0].strip()}"[:110]
                print(f"\r\033[K{line}\r" if terminal else line, end="" if terminal else "\n", flush=True)
            finally:
                if terminal:
                    print("\033[K", end="", flush=True)

    def tail(self, count: int) -> list[str]:
        """The last lines that are not empty."""
        return [line for line in self.path.read_text(errors="replace").splitlines() if line.strip()][-count:]


def build_tools(log: Log) -> None:
    """The virtual environment, and what compiling mmcv and detectron2 needs."""
    if not PYTHON.exists():
        log.run(sys.executable, "-m", "venv", str(VENV))
    log.run(*INSTALL, "pip<26", "setuptools<81", "wheel", "ninja", "psutil", "numpy")


def torch(log: Log) -> None:
    """PyTorch, before everything that compiles against it."""
    log.run(*INSTALL, "torch", "torchvision")


def mmcv(log: Log) -> str | None:
    """mmcv with its compiled operators."""
    log.run(*NO_ISOLATION, "onedl-mmcv")
    # opencv-python needs libGL, which servers lack; the headless build is the same module without windows.
    log.run(*INSTALL, "--no-deps", "--force-reinstall", "opencv-python-headless")
    check = (str(PYTHON), "-c", "import mmcv.ops")
    if log.returncode(*check):
        # A wheel in pip's cache may have been built without operators or against another torch.
        again = ("--no-deps", "--force-reinstall", "--no-cache-dir", "--no-binary", "onedl-mmcv", "onedl-mmcv")
        log.run(*NO_ISOLATION, *again)
        log.run(*check)
    return None if shutil.which("nvcc") else "its operators run on the CPU, since no CUDA compiler (nvcc) was found"


def package(log: Log) -> None:
    """This project in place, with MMDetection, MMSegmentation, lightly, Lightning and the checkers."""
    log.run(*NO_ISOLATION, "--editable", ".[openmmlab,pretrain,dev]")


def detectron2(log: Log) -> str | None:
    """detectron2, where it can be had."""
    if log.returncode(str(PYTHON), "-c", "import detectron2") == 0:
        return None
    address = re.findall(r"detectron2 @ git\+(\S+?)@", (ROOT / "setup.py").read_text())[0]
    if not _reachable(address, log):
        return f"left out, since {address} cannot be reached; add it later with: make detectron2"
    if log.returncode(*NO_ISOLATION, "--editable", ".[detectron2]"):
        return f"left out, since it did not build (see {log.path.relative_to(ROOT)}); try again with: make detectron2"
    return None


def check(log: Log) -> None:
    """Everything imports, and no two packages disagree."""
    log.run(str(PYTHON), "-c", "import data_plugin.backbones, mmcv.ops, mmdet, mmseg, lightly, lightning")
    log.run(*PIP, "check")


STEPS = (
    Step("build tools", "", build_tools),
    Step("torch", "a download of some GB: several minutes", torch),
    Step("mmcv", "compiles C++: some 10 minutes on 2 cores, the first time", mmcv),
    Step("data_plugin, mmdet, mmseg, lightly", "a minute or two", package),
    Step("detectron2", "compiles C++ where its repository can be reached", detectron2),
    Step("check", "", check),
)


def main() -> int:
    """Do the steps that are not done yet."""
    parser = argparse.ArgumentParser(description="Sets up .venv for this project.")
    parser.add_argument("--then", default="make", help="the command to show as the way to go on after a failure")
    parser.add_argument("--retry", default="", metavar="STEP", help="do this step again")
    arguments = parser.parse_args()

    complaint = _complaint()
    if complaint:
        print(complaint, file=sys.stderr)
        return 1
    RECORDS.mkdir(parents=True, exist_ok=True)
    with (RECORDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _do_steps(arguments.then, arguments.retry)


def _do_steps(then: str, retry: str) -> int:
    record = RECORDS / "done.json"
    inputs = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()
    state = json.loads(record.read_text()) if record.exists() else {}
    done = [name for name in state.get("done", []) if state["inputs"] == inputs and name != retry]
    open_steps = [step for step in STEPS if step.name not in done]
    if open_steps:
        print(f"Setting up .venv: {len(open_steps)} of {len(STEPS)} steps to do; their output goes to .venv/set-up/")
    for number, step in enumerate(STEPS, start=1):
        if step not in open_steps:
            continue
        print(f"[{number}/{len(STEPS)}] {step.name} ...{f' ({step.note})' if step.note else ''}", flush=True)
        log = Log(RECORDS / f"{number}-{re.sub('[^a-z0-9]+', '-', step.name)}.log")
        try:
            remark = step.act(log)
        except StepFailed:
            shown = "\n".join(f"    {line}" for line in log.tail(15))
            place = log.path.relative_to(ROOT)
            print(
                f"The set-up stopped at step {number}, {step.name}. Its output ends:\n{shown}\n"
                f"All of it is in {place}. Put the cause right and run again: {then} (goes on with this step)",
                file=sys.stderr,
            )
            return 1
        except KeyboardInterrupt:
            print(f"\nInterrupted in step {number}, {step.name}; to go on with it run: {then}", file=sys.stderr)
            return 130
        if remark:
            print(f"      {step.name}: {remark}", flush=True)
        done.append(step.name)
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps({"inputs": inputs, "done": done}))
        temporary.replace(record)
    return 0


def _complaint() -> str | None:
    """What this machine lacks, in one sentence, or None."""
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < (3, 11):  # noqa: UP036 -- an older Python can run this file
        return f"{sys.executable} is Python {version}; 3.11 is needed: name one with make PYTHON=/path/to/python3.11"
    configuration = VENV / "pyvenv.cfg"
    made_with = (
        re.search(r"^version\s*=\s*(\d+\.\d+)", configuration.read_text(), re.M) if configuration.exists() else None
    )
    if made_with and made_with[1] != version:
        return (
            f".venv was made with Python {made_with[1]}, this is {version}; remove .venv or name the other with PYTHON="
        )
    if made_with and not PYTHON.exists():
        return ".venv was made with a Python that is no longer there; remove the folder .venv and run again"
    if (RECORDS / "done.json").exists():
        return None
    if importlib.util.find_spec("ensurepip") is None:
        return f"{sys.executable} cannot make virtual environments; on Debian: apt install python{version}-venv"
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        return "No C++ compiler was found, and mmcv has to be compiled; on Debian: apt install g++"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python.h, which compiling mmcv needs, was not found; on Debian: apt install python{version}-dev"
    return None


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    if not shutil.which("nvcc"):
        # Where torch sees a GPU, mmcv and detectron2 would ask for the CUDA compiler and stop without it.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _reachable(address: str, log: Log) -> bool:
    """Whether a git repository answers within 20 seconds, without asking anybody for a password."""
    if not shutil.which("git"):
        return False
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}
    try:
        with log.path.open("a") as out:
            subprocess.run(
                ["git", "ls-remote", address, "HEAD"], env=quiet, stdout=out, stderr=out, timeout=20, check=True
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
