"""A search for classification whose networks are fine-tuned with labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SPACE, random_supernet

from data_plugin import UserError
from data_plugin.evaluation.classification import LINEAR
from data_plugin.evaluation.run import open_evaluation
from data_plugin.frameworks.finetuned import Training
from data_plugin.ranking.classified import LabelledImages, finetune_classifiers
from data_plugin.search.found import Search
from data_plugin.supernet.checkpoint import save_supernet
from data_plugin.tools import rank_check, search_cls

for needed in ("lightly", "lightning", "torchmetrics", "torchvision"):
    pytest.importorskip(needed, reason=f"classifiers need {needed}")


@pytest.fixture(autouse=True)
def _read_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("search.downstream", "ranking.classified"):
        monkeypatch.setattr(f"data_plugin.{module}.spare_cores", lambda: 0)


COLOURS = {"green": (40, 190, 60), "red": (200, 50, 40)}


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """Noisy images of two colours, 4 a class to train on and 3 to measure."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for name, colour in COLOURS.items():
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.normal(colour, 30, (36, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return {split: tmp_path / split for split in ("train", "val")}


@pytest.fixture
def searched(folders, tmp_path) -> Path:
    save_supernet(tmp_path / "supernet.safetensors", random_supernet(SPACE))
    given = ["--images", folders["train"], "--supernet", tmp_path / "supernet.safetensors", "--out", tmp_path / "out"]
    given += ["--group", "0-1", "--samples", 5, "--image-count", "all", "--image-size", 32, "--taps", "C5"]
    assert search_cls.main([*map(str, given), "--device", "cpu"]) == 0
    return tmp_path / "out"


def test_classifiers_are_fine_tuned_and_what_is_done_is_kept(searched, folders, capsys):
    given = ["--search", searched, "--finetune", 2, "--networks", 4, "--seeds", 3]
    given += ["--train", folders["train"], "--val", folders["val"]]
    assert rank_check.main([*map(str, given)]) == 0
    printed = capsys.readouterr().out
    assert "fine-tunes 4 times for 2 epochs, with the seed 3" in printed
    (check,) = Search.read(searched).report.rank_checks.values()
    assert (check.metric, check.length, len(check.networks)) == ("top1", "2 epochs", 4)
    written = json.loads((searched / "rank_check" / "comparison.json").read_text())
    known = {(row["arch"], row["seed"]): row["metrics"]["top1"] for row in written["finetuned"]}
    for network in check.networks:
        assert list(network.values) == [known[str(network.arch), 3]]
        assert all(value in [pytest.approx(100 * right / 6) for right in range(7)] for value in network.values)

    before = {path: path.stat().st_mtime_ns for path in searched.rglob("metrics.json")}
    assert rank_check.main([*map(str, given), "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in searched.rglob("metrics.json")} == before
    assert rank_check.main([*map(str, given), "--resume", "--labels", "50%"]) == 2
    assert "holds a comparison with other settings: labelled was" in capsys.readouterr().err


def test_what_is_missing_or_too_much_is_said(searched, folders, tmp_path, capsys):
    given = ["--search", str(searched), "--finetune", "2", "--networks", "4"]
    assert rank_check.main(given) == 2
    assert "was searched for classification; give labelled images, --train and --val" in capsys.readouterr().err
    assert rank_check.main([*given, "--train", str(folders["train"])]) == 2
    assert "--train and --val are needed" in capsys.readouterr().err
    assert rank_check.main([*given, "--train", str(folders["train"]), "--val", str(tmp_path / "none")]) == 2
    assert "none is not a folder" in capsys.readouterr().err
    assert not (searched / "rank_check").exists()


def test_a_linear_classifier_leaves_the_network_as_it_is(folders, tmp_path):
    supernet = tmp_path / "supernet.safetensors"
    save_supernet(supernet, random_supernet(SPACE))
    training = Training("middle", SPACE.middle, "supernet", seed=3)
    labelled = LabelledImages(folders["train"], folders["val"], protocol="linear")
    found = finetune_classifiers(str(supernet), tmp_path / "out", [training], labelled, image_size=32, epochs=2)
    (finetuned,) = found.finetuned
    # What data-evaluate linear measures.
    evaluation, _ = open_evaluation(
        str(supernet), [str(SPACE.middle)], folders["train"], folders["val"], image_size=32, workers=0
    )
    alone = replace(evaluation, seed=3).linear(replace(LINEAR, epochs=2), tmp_path / "alone")[SPACE.middle]
    assert finetuned.metrics["top1"] == pytest.approx(100 * alone.top1)
    with pytest.raises(UserError, match=r"a linear classifier uses all labels, and 0\.5 of them"):
        LabelledImages(folders["train"], folders["val"], 0.5, "linear")
