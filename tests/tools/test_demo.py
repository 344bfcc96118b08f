import os
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("rich")

from data_plugin.frameworks.registry import MMDET, frameworks_of
from data_plugin.images.batch import draw_batches
from data_plugin.tools import demo
from data_plugin.utils.errors import UserError


def test_a_folder_that_is_no_earlier_demo_is_left_alone(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(demo, "find_framework", lambda name, config, task: MMDET)
    (tmp_path / "thesis.tex").touch()
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert "is not the output of an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unknown_framework_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert demo.main(["--out", str(tmp_path / "demo"), "--framework", "yolo"]) == 2
    assert "'yolo' is not a framework" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_logged_command_shows_its_progress_alone(tmp_path: Path, capsys: pytest.CaptureFixture):
    code = "print('Config:'); print('Iter(train) [20/120]  loss: 1'); raise SystemExit(3)"
    assert demo._run_logged([sys.executable, "-c", code], tmp_path / "log", os.environ) == 3
    assert capsys.readouterr().out == "  Iter(train) [20/120]  loss: 1\n"
    assert (tmp_path / "log").read_text() == "Config:\nIter(train) [20/120]  loss: 1\n"


def test_a_failing_tool_ends_the_demo(tmp_path: Path):
    with pytest.raises(UserError, match=r"data-finetune-det left with exit code 2; its output is in .*log"):
        demo._run("finetune_det", log=tmp_path / "log")


@pytest.mark.parametrize("framework", frameworks_of("detection"), ids=lambda framework: framework.name)
def test_the_recipe_is_small_and_takes_the_drawn_images_alone(framework, drawn_voc: Path):
    pytest.importorskip(framework.name, reason=f"{framework.name} is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TRAINING DATA")
        config = framework.open(demo.CONFIG, (), drawn_voc)
    assert config.taps == framework.open("faster_rcnn_c4_voc", (), drawn_voc).taps
    (batch,) = draw_batches(config.images(), 1, 1, 0)
    assert tuple(batch.images.shape) == (1, 3, 240, 320)
