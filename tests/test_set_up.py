import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def set_up(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The set-up script in a project folder of its own, whose second step fails until a file appears."""
    spec = importlib.util.spec_from_file_location("set_up", checkout / "scripts" / "set_up.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "set_up", module)
    spec.loader.exec_module(module)
    (tmp_path / "setup.py").write_text("first")
    cure = tmp_path / "cure"

    def first(log):
        log.run(sys.executable, "-c", "print('first done')")
        return "a remark"

    def second(log):
        log.run(
            sys.executable, "-c", f"import os; print('no cure'); raise SystemExit(not os.path.exists({str(cure)!r}))"
        )

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "RECORDS", tmp_path / ".venv" / "set-up")
    monkeypatch.setattr(module, "INPUTS", (tmp_path / "setup.py",))
    monkeypatch.setattr(module, "STEPS", (module.Step("first", "quick", first), module.Step("second", "", second)))
    monkeypatch.setattr(sys, "argv", ["set_up.py", "--then", "make demo"])
    module.cure = cure
    return module


def test_a_failed_step_is_named_and_taken_up_again(set_up, capsys: pytest.CaptureFixture):
    assert set_up.main() == 1
    shown = capsys.readouterr()
    assert "[1/2] first ... (quick)\n      first: a remark\n[2/2] second ..." in shown.out
    assert "stopped at step 2, second" in shown.err
    assert "no cure" in shown.err
    assert "run again: make demo" in shown.err
    assert (set_up.ROOT / ".venv" / "set-up" / "2-second.log").is_file()

    set_up.cure.touch()
    assert set_up.main() == 0
    shown = capsys.readouterr()
    assert "[1/2]" not in shown.out
    assert "[2/2] second" in shown.out

    assert set_up.main() == 0
    assert capsys.readouterr() == ("", "")


def test_changed_requirements_set_up_again(set_up, capsys: pytest.CaptureFixture):
    set_up.cure.touch()
    assert set_up.main() == 0
    (set_up.ROOT / "setup.py").write_text("second")
    capsys.readouterr()
    assert set_up.main() == 0
    assert "2 of 2 steps" in capsys.readouterr().out


def test_an_interrupted_step_is_done_again(set_up, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def interrupted(log):
        raise KeyboardInterrupt

    steps = set_up.STEPS
    monkeypatch.setattr(set_up, "STEPS", (steps[0], steps[1]._replace(act=interrupted)))
    assert set_up.main() == 130
    assert "step 2, second; to go on with it run: make demo" in capsys.readouterr().err
    assert json.loads((set_up.RECORDS / "done.json").read_text())["done"] == ["first"]


def test_a_step_can_be_asked_for_again(set_up, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    set_up.cure.touch()
    assert set_up.main() == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["set_up.py", "--retry", "second"])
    assert set_up.main() == 0
    assert "1 of 2 steps" in capsys.readouterr().out


def test_a_machine_without_a_compiler_gets_one_sentence(set_up, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setenv("PATH", str(set_up.ROOT))
    assert set_up.main() == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("No C++ compiler was found")
    assert shown.err.count("\n") == 1
    assert not (set_up.ROOT / ".venv").exists()


def test_a_venv_of_another_python_is_left_alone(set_up, capsys: pytest.CaptureFixture):
    (set_up.ROOT / ".venv").mkdir()
    (set_up.ROOT / ".venv" / "pyvenv.cfg").write_text("version = 3.9.1\n")
    assert set_up.main() == 1
    assert ".venv was made with Python 3.9" in capsys.readouterr().err


def test_every_pinned_requirement_agrees_with_the_constraints(checkout: Path):
    from packaging.requirements import Requirement

    lines = (checkout / "scripts" / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    names = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    quoted = [part for part in (checkout / "setup.py").read_text().split('"')[1::2] if "==" in part]
    assert quoted
    for text in quoted:
        requirement = Requirement(text)
        assert names[requirement.name.lower().replace("_", "-")] in requirement.specifier
