"""Searching a backbone for classification, on images of a folder without any framework."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE

from data_plugin import UserError, search_supernet
from data_plugin.backbones import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.recipe import Recipe
from data_plugin.search.downstream import CroppedImages
from data_plugin.search.found import Search
from data_plugin.search.resume import PartialSearch
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, save_supernet
from data_plugin.tools import evaluate, search_cls

pytest.importorskip("torchvision", reason="classification needs torchvision")
pytest.importorskip("lightly", reason="heads need lightly")

from data_plugin.evaluation.images import LabelledImages
from data_plugin.images.crops import centre_crop
from data_plugin.images.labelled import labelled_folder

SETTINGS = {"epochs": 1, "batch_size": 4, "image_size": 32, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
SETTINGS |= {"weight_decay": 1e-4, "key_momentum": 0.9, "method": "mocov2", "settings": {"hidden": 24, "dim": 8}}


@pytest.fixture(autouse=True)
def _read_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_plugin.search.downstream.spare_cores", lambda: 0)


@pytest.fixture
def supernet(tmp_path) -> Path:
    """One with heads, which its file describes."""
    heads = Recipe.from_json(SETTINGS).build_method(SPACE.largest.out_channels[-1]).heads()
    info = SupernetInfo(SPACE, "mocov2", InputFormat.imagenet(), {"image_size": 32, "recipe": SETTINGS})
    branches = [DynamicResNet(SPACE).eval() for _ in range(2)]
    save_supernet(tmp_path / "supernet.safetensors", Supernet(info, *branches, heads))
    return tmp_path / "supernet.safetensors"


@pytest.fixture
def images(tmp_path) -> Path:
    """Noise in two classes, the images of several sizes."""
    random = np.random.default_rng(0)
    for name in ("bat", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index, size in enumerate(((40, 60), (64, 48), (33, 70))):
            Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(
                tmp_path / "images" / name / f"{index}.png"
            )
    return tmp_path / "images"


@pytest.fixture
def arguments(supernet, images, tmp_path) -> list[str]:
    given = ["--images", images, "--supernet", supernet, "--out", tmp_path / "out", "--group", "0-1", "--samples", 5]
    return [*map(str, given), "--image-count", "all", "--batch-size", "3", "--device", "cpu"]


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_are_those_of_data_evaluate(images, order):
    form = InputFormat(order, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    ours = CroppedImages(open_images(images), 32, form)
    theirs = LabelledImages(labelled_folder(images), centre_crop(32, form))
    by_name = {str(Path(path).relative_to(images)): theirs[i][0] for i, (path, _) in enumerate(theirs.images.samples)}
    assert set(ours.names) == set(by_name)
    for index, name in enumerate(ours.names):
        loaded = ours[index]
        assert loaded.size == (32, 32)
        assert torch.equal(loaded.pixels, by_name[name])


def test_the_winner_goes_to_data_evaluate_as_it_is_printed(arguments, images, tmp_path, capsys):
    assert search_cls.main([*arguments, "--image-size", "40"]) == 0
    report = Search.read(tmp_path / "out").report
    assert (list(report.taps), report.config, len(report.images.names)) == (["z"], str(images), 6)
    folder = tmp_path / "out" / report.winners[0].folder
    assert {path.name for path in folder.iterdir()} == {"backbone.pth", "backbone.safetensors", "arch.json"}

    printed = capsys.readouterr().out
    assert f"{images}, classification at 40x40" in printed
    (line,) = [each for each in printed.splitlines() if "--train TRAIN --val VAL" in each]
    words = shlex.split(line.replace("TRAIN", str(images)).replace("VAL", str(images)))
    small = ["--k", "2", "--calibration", "6", "--batch-size", "3", "--workers", "0", "--device", "cpu"]
    assert evaluate.main([*words[words.index("knn") :], *small]) == 0
    settings = json.loads((tmp_path / "out" / "evaluated" / "knn.json").read_text())
    assert str(report.winners[0].arch) in json.dumps(settings)
    assert '"image_size": 40' in json.dumps(settings)


def test_c5_is_compared_where_it_is_asked_for(arguments, tmp_path):
    assert search_cls.main([*arguments, "--taps", "C5"]) == 0
    assert Search.read(tmp_path / "out").report.taps == ["C5"]


def test_it_goes_on_with_the_same_images_alone(arguments, images, tmp_path, monkeypatch, capsys):
    write = PartialSearch.write

    def killed(self, *batch):
        write(self, *batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(PartialSearch, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        search_cls.main(arguments)
    monkeypatch.setattr(PartialSearch, "write", write)
    more = images / "cat" / "more.png"
    Image.new("RGB", (40, 40)).save(more)
    assert search_cls.main([*arguments, "--resume"]) == 2
    assert "holds a search with another" in capsys.readouterr().err
    more.unlink()
    assert search_cls.main([*arguments, "--resume", "--image-size", "48"]) == 2
    assert "another image size (None, now 48)" in capsys.readouterr().err
    assert search_cls.main([*arguments, "--resume"]) == 0


def test_what_does_not_fit_is_one_sentence(arguments, supernet, images, tmp_path, capsys):
    assert search_cls.main([*arguments, "--images", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    save_supernet(supernet, Supernet(SupernetInfo(SPACE, "mocov2", InputFormat.imagenet()), DynamicResNet(SPACE),
                                     DynamicResNet(SPACE)))  # fmt: skip
    assert search_cls.main(arguments) == 2
    assert "does not say at which image size it was pre-trained; give one with --image-size" in capsys.readouterr().err
    assert search_cls.main([*arguments, "--image-size", "32"]) == 2
    assert "it has no tap z; search with feature maps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (images / "cat" / "broken.png").write_bytes(b"no image")
    assert search_cls.main([*arguments, "--image-size", "32", "--taps", "C5"]) == 2
    assert "broken.png cannot be read; replace or remove it" in capsys.readouterr().err


def test_options_of_a_config_are_refused_and_the_other_way_round(supernet, images, tmp_path):
    common = {"out": tmp_path / "out", "group": "0-1", "device": "cpu"}
    with pytest.raises(UserError, match="classes was given, which is for a framework's config"):
        search_supernet(supernet, images, task="classification", classes=["cat"], **common)
    with pytest.raises(UserError, match="image_size was given, which is for classification"):
        search_supernet(supernet, "faster_rcnn_c4_voc", image_size=32, **common)


def test_no_framework_fine_tunes_its_winners(arguments, tmp_path):
    assert search_cls.main(arguments) == 0
    search = Search.read(tmp_path / "out")
    with pytest.raises(UserError, match="searched for classification, where no framework fine-tunes"):
        search.winners[0].finetune(tmp_path / "tuned")
    assert search.winners[0].backbone()(torch.zeros(1, 3, 32, 32))[-1].shape[0] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data-rank-check --search FOLDER --finetune N --train TRAIN --val VAL" in page
