"""The one command for a GPU, rehearsed on a CPU."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("lightly", reason="pre-training is not installed")
pytest.importorskip("kornia", reason="colours on the device need kornia")


@pytest.fixture
def gpu(checkout, monkeypatch):
    """The benchmark, which imports others of its folder by their names, such as ``search``."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu", checkout / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    ours = {path.stem for path in (checkout / "benchmarks").glob("*.py")}
    for name in ours & (set(sys.modules) - before):
        del sys.modules[name]


def rehearsed(gpu, part: str) -> list[dict]:
    rows = gpu.PARTS[part](torch.device("cpu"), True)
    assert json.loads(json.dumps(rows)) == rows
    return rows


def test_a_training_is_timed_in_every_way(gpu):
    peak, *rows = rehearsed(gpu, "training")
    assert len(rows) == 3
    for row in rows:
        assert row["images/s"] > 0
        assert row["of the convolution"] == pytest.approx(row["operations/s"] / peak["operations/s"])


def test_a_relation_is_the_same_in_every_way(gpu):
    rows = rehearsed(gpu, "relation")
    assert {(row["positions"], row["way"]) for row in rows} >= {(300, "whole"), (300, "kept"), (300, "tiles")}
    assert all(row["differs by"] < 1e-3 for row in rows)


def test_a_search_gives_what_each_network_alone_gives(gpu):
    (row,) = rehearsed(gpu, "search")
    assert row["scores differ by"] < 1e-4
    assert row["all networks, seconds an image"] > row["seconds"] / row["images"]


def test_every_approximation_is_compared(gpu):
    found = {(row["taps"], row["approximation"]): row for row in rehearsed(gpu, "precision")}
    for taps in ("C5", "C2,C3,C4,C5"):
        assert all((taps, f"{half} features") in found for half in ("bfloat16", "float16"))
        assert found[taps, "256 rows"]["spearman"] == pytest.approx(1)  # as many as there are


def test_the_tests_for_a_gpu_are_those_that_say_so(gpu, checkout, monkeypatch):
    def run(command, env, **_):
        assert env["CUDA_TESTS_ON"] == "cpu"
        assert command[command.index("-m", 3) + 1] == "cuda"
        assert str(checkout / "tests" / "search" / "test_relation_kernel.py") in command
        return subprocess.CompletedProcess(command, 0, "...\n7 passed in 1.00s\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert rehearsed(gpu, "tests") == [{"tests": "7 passed in 1.00s"}]


def test_a_part_runs_in_a_process_of_its_own(checkout, tmp_path):
    out = tmp_path / "rehearsal.json"
    command = [sys.executable, checkout / "benchmarks" / "gpu.py", "--out", out, "--rehearse", "--parts", "relation"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())
    assert found["rehearsal"]
    assert len(found["parts"]["relation"]["rows"]) == ended.stdout.count("\n| ") - 2


def test_a_part_that_fails_leaves_the_others(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "in_a_process", lambda name, *_: {"error": "it broke\n"} if name == "search"
                        else {"rows": [{"images/s": 1234.5, "way": name}]})  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "found.json"), "--rehearse"])
    assert gpu.main() == 1
    found = json.loads((tmp_path / "found.json").read_text())["parts"]
    assert found["search"]["error"] == "it broke\n"
    assert found["tests"]["rows"] == [{"images/s": 1234.5, "way": "tests"}]
    shown = capsys.readouterr().out
    assert "failed: it broke" in shown
    assert "| 1,234 | tests |" in shown


def test_a_part_that_lasts_too_long_is_stopped(gpu, monkeypatch):
    def endless(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", endless)
    assert "stopped after 3 s" in gpu.in_a_process("search", True, 3)["error"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "found.json")])
    assert gpu.main() == 2
    assert "there is no CUDA device; --rehearse" in capsys.readouterr().err
