import argparse
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (*sorted((ROOT / "docs" / "guide").glob("*.md")), ROOT / "README.md", ROOT / "docs" / "deployment.md")


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


guide = load(ROOT / "scripts" / "run_guide.py")
COMMANDS = [step for page in PAGES for step in guide.steps(page) if step.text.startswith("data-")]


class ParsedError(Exception):
    """The tool has read its arguments, and shall do nothing."""


@pytest.mark.parametrize("step", COMMANDS, ids=lambda step: f"{step.page}: {step.text[:60]}")
def test_tools_know_the_options_of_every_command(step, monkeypatch: pytest.MonkeyPatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, namespace=None):
        parse(parser, argv, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    command, *words = step.arguments
    (found,) = entry_points(group="console_scripts", name=command)
    with pytest.raises(ParsedError):
        found.load()(words)


def test_every_command_of_the_guide_is_run_or_says_why_not():
    pages = [page for page in PAGES if page.parent.name == "guide"]
    run = [step for page in pages for step in guide.steps(page) if step.file is None]
    assert {step.page for step in run if step.reason is None} == set(guide.RUN)
    used = {start for start in guide.NOT_RUN for step in run if step.text.startswith(start)}
    assert used == set(guide.NOT_RUN), "a reason is given for a command that no page has"


def test_every_console_line_of_the_guide_is_found():
    for page in PAGES:
        lines = [line.strip() for line in page.read_text().splitlines() if re.match(r" {4,}data-", line)]
        assert len(lines) == sum(step.text.startswith("data-") for step in guide.steps(page)), page.name


def test_blocks_become_commands_and_files(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "Labels are in\n`data/classes.txt`:\n\n    0 road\n    4 fence\n\nThen\n\n"
        "    data-search-det --config a \\\n        --dry-run\n    ls\n\n    python benchmarks/b.py  # quick\n"
    )
    file, search, script = guide.steps(page)
    assert (file.file, file.text) == ("data/classes.txt", "0 road\n4 fence\n")
    assert search.arguments == ["data-search-det", "--config", "a", "--dry-run"]
    assert script.arguments == ["python", "benchmarks/b.py"]


def test_data_sets_get_folders_of_their_own(tmp_path: Path):
    for part in ("animals_voc/VOCdevkit", "camvid_cityscapes/gtFine"):
        (tmp_path / "data" / part).mkdir(parents=True)
    (tmp_path / "out").mkdir()
    guide.link_data(tmp_path / "data", tmp_path / "out")
    (tmp_path / "out" / "camvid_cityscapes" / "classes.txt").write_text("0 road\n")
    assert (tmp_path / "out" / "animals_voc" / "VOCdevkit").is_dir()
    assert not (tmp_path / "data" / "camvid_cityscapes" / "classes.txt").exists()


def test_costs_in_the_guide_are_those_that_are_computed():
    command = [sys.executable, ROOT / "benchmarks" / "pretrain_cost.py"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = "\n".join(line for line in said.splitlines() if line.startswith("|"))
    assert table in (ROOT / "docs" / "guide" / "supernets.md").read_text()


def test_links_of_the_guide_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
