"""Runs the commands of the guide in their order, in a scratch folder, and says how long each took.

A page's commands are its indented lines that begin with ``data-`` or ``python benchmarks/``, with their continuations.
An indented block below a line that ends in the name of a ``.txt`` file and a colon becomes that file.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide"

RUN = ("detection", "segmentation", "classification", "supernets")
"""Pages whose commands are run; ``data-…`` commands of other pages need a line in :data:`NOT_RUN`."""

NOT_RUN: Mapping[str, str] = {
    "data-pretrain --data IMAGES --space data": "takes GPUs for days",
    "data-pretrain --data IMAGES --space mini --recipe micro_distill": "takes hours",
    "data-convert-checkpoint import": "reads files of others, which do not come with the project",
}
"""How a command begins that is not run, and why."""

FILE = re.compile(r"`([^`\s]+\.txt)`:$")
COMMAND = re.compile(r"(data-|python benchmarks/)")


class Step(NamedTuple):
    """What a page says to do: a command to run or, with ``file``, a text to put there."""

    page: str
    text: str
    file: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the command is not run; None where it is."""
        return next((why for start, why in NOT_RUN.items() if self.text.startswith(start)), None)

    @property
    def arguments(self) -> list[str]:
        """The words of the command, without a comment behind it."""
        return shlex.split(self.text, comments=True)


def steps(path: Path) -> Iterator[Step]:
    """The steps of a page in their order."""
    before, block = "", list[str]()
    for line in [*path.read_text(encoding="utf-8").splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block.append(line)
            continue
        yield from _steps_of(path.stem, before, block)
        block = []
        before = line or before
    assert not block


def _steps_of(page: str, before: str, block: list[str]) -> Iterator[Step]:
    text = "\n".join(line.strip() for line in block).strip()
    named = FILE.search(before)
    if named and text:
        yield Step(page, f"{text}\n", named[1])
        return
    for command in text.replace("\\\n", "").splitlines():
        if COMMAND.match(command):
            yield Step(page, command)


def main() -> int:
    """Run the pages; returns 1 where a command failed."""
    parser = argparse.ArgumentParser(description="Runs the commands of the guide, as far as they can be run anywhere.")
    parser.add_argument("--data", required=True, type=Path, help="folder that holds animals_voc and camvid_cityscapes")
    parser.add_argument("--pages", nargs="+", default=RUN, choices=RUN, help="pages of docs/guide (default: all)")
    parser.add_argument("--out", type=Path, help="a new folder to run in (default: one for temporary files)")
    arguments = parser.parse_args()

    out = arguments.out or Path(tempfile.mkdtemp(prefix="guide-"))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        parser.error(f"{out} is not empty; name another folder")
    link_data(arguments.data.resolve(), out)
    print(f"in {out}", flush=True)
    began = time.monotonic()
    for page in arguments.pages:
        for number, step in enumerate(steps(GUIDE / f"{page}.md"), start=1):
            if not _do(step, out, out / f"{page}-{number}.log"):
                return 1
    print(f"\nall done in {_minutes(time.monotonic() - began)}")
    return 0


def link_data(data: Path, out: Path) -> None:
    """Give every data set a folder below ``out``, so that a page can put a file into it, not into the data."""
    for name in ("animals_voc", "camvid_cityscapes"):
        (out / name).mkdir()
        for part in sorted((data / name).iterdir()):
            (out / name / part.name).symlink_to(part)


def _do(step: Step, out: Path, log: Path) -> bool:
    """Do one step; False where its command failed."""
    if step.file is not None:
        (out / step.file).write_text(step.text, encoding="utf-8")
        print(f"\n> {step.file}", flush=True)
        return True
    print(f"\n$ {step.text}", flush=True)
    if step.reason is not None:
        print(f"  not run: {step.reason}", flush=True)
        return True
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(_python(step.arguments), cwd=out, stdout=file, stderr=subprocess.STDOUT)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    shown = lines[-1:] if done.returncode == 0 else lines[-20:]
    print("\n".join(f"  {line[:200]}" for line in shown))
    print(f"  exit code {done.returncode} after {_minutes(time.monotonic() - began)}, {log}", flush=True)
    return done.returncode == 0


def _python(words: list[str]) -> list[str]:
    """What runs a command of a page with this interpreter, wherever it is run."""
    if words[0] == "python":
        return [sys.executable, str(ROOT / words[1]), *words[2:]]
    (command,) = entry_points(group="console_scripts", name=words[0])
    return [sys.executable, "-m", command.module, *words[1:]]


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait slow a busy machine down
    sys.exit(main())
