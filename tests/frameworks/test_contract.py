"""What every framework's adapter has to do alike."""

import importlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import with_classes

from data_plugin import Arch
from data_plugin.frameworks.framework_config import LAST_CHECKPOINT
from data_plugin.images.batch import ImageSource, LoadedImage, draw_batches
from data_plugin.images.class_list import CLASS_LIST
from data_plugin.images.input_format import InputFormat
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.backbone_files import PTH_FILE
from data_plugin.utils.errors import UserError

SMALL = Arch.parse("d1-2-1-2_w8-8-16-24-40")
REHEARSING = {
    "detectron2": "data_plugin.backbones.detectron2.finetune",
    "mmdet": "data_plugin.backbones.openmmlab.training",
    "mmseg": "data_plugin.backbones.openmmlab.training",
}


class Names(ImageSource):
    """Images without pixels."""

    def __getitem__(self, index: int) -> LoadedImage:
        return LoadedImage(torch.zeros(3, 1, 1), (1, 1))


def test_the_recipe_reads_c5_of_images_as_pre_training_has_them(detection):
    config = detection.open()
    assert config.taps == ("C5",)
    InputFormat.imagenet().require(config.input_format, "the recipe")


def test_c4_detectors_run_at_the_pre_trainings_strides(detection):
    assert detection.open().resolution == Resolution()


def test_a_stage_4_that_keeps_stride_16_is_dilated(detection):
    options = {
        "detectron2": ("MODEL.RESNETS.RES5_DILATION=2", "MODEL.ROI_HEADS.NAME=StandardROIHeads"),
        "mmdet": ("model.roi_head.shared_head.stride=1", "model.roi_head.shared_head.dilation=2"),
    }[detection.framework.name]
    assert detection.open(*options).resolution == Resolution(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))


def test_some_batches_are_those_of_all(example):
    batches = draw_batches(example.open().images(), 3, 2, seed=0)
    whole = list(batches)
    assert [len(batch.names) for batch in whole] == [2, 1]
    for indices in ([1], [0, 1], []):
        some = batches.only(indices)
        assert len(some) == len(indices)
        for found, index in zip(some, indices, strict=True):
            assert found.names == whole[index].names
            assert torch.equal(found.images, whole[index].images)


def test_the_same_seed_draws_the_same_images_in_every_framework(detection):
    listed = (detection.data_root / "VOC2007/ImageSets/Main/trainval.txt").read_text().split()
    images = detection.open().images()
    for seed in range(3):
        expected = draw_batches(Names([f"{name}.jpg" for name in reversed(listed)]), 5, 2, seed)
        found = draw_batches(images, 5, 2, seed)
        assert [batch.names for batch in found] == [batch.names for batch in expected]


def test_images_need_no_labels(example, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(example.data_root, root)
    labels = "gtFine" if example.framework.task == "segmentation" else "VOC2007/Annotations"
    shutil.rmtree(root / labels)
    bare, whole = example.open(data_root=root).images(), example.open().images()
    assert bare.names == whole.names
    assert torch.equal(bare[0].pixels, whole[0].pixels)


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_an_unreadable_image_is_named(example, tmp_path: Path, damage: str):
    root = tmp_path / "data"
    shutil.copytree(example.data_root, root)
    images = example.open(data_root=root).images()
    (path,) = (path for path in root.rglob(images.names[1]) if "val" not in path.parts)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-500] if damage == "truncated" else b"no image")
    with pytest.raises(UserError, match=path.name) as caught:
        list(draw_batches(images, None, 2, seed=0))
    assert "\n" not in str(caught.value)


def test_a_written_config_asks_the_same_of_the_network(example, tmp_path: Path):
    config = example.open()
    path = tmp_path / f"config{example.framework.configs.ending}"
    config.write(SMALL, tmp_path / PTH_FILE, path)
    written = example.framework.open(str(path), (), example.data_root)
    assert str(SMALL) in path.read_text()
    assert (written.taps, written.resolution, written.input_format) == (
        config.taps,
        config.resolution,
        config.input_format,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trying_an_evaluation_before_a_training_changes_no_weight(example, winner: Path, tmp_path: Path, monkeypatch):
    def drawing(model: torch.nn.Module) -> torch.nn.Module:
        """Go on to evaluate; as if that took random numbers, of which it takes none here."""
        random.random(), np.random.rand(), torch.rand(1)
        return model.train(False)

    def trained(name: str) -> dict[str, torch.Tensor]:
        seed = f"{example.framework.seed_key}=0"
        example.framework.open(str(winner), [seed], example.data_root).finetune(tmp_path / name)
        last = tmp_path / name / Path((tmp_path / name / LAST_CHECKPOINT).read_text()).name
        contents = torch.load(last, weights_only=False)  # written by this test
        return contents.get("state_dict") or contents["model"]

    monkeypatch.setattr(torch.nn.Module, "eval", drawing)
    module = importlib.import_module(REHEARSING[example.framework.name])
    with_it, calls = trained("with"), []
    monkeypatch.setattr(module, "rehearse_evaluation", calls.append)
    without = trained("without")
    assert len(calls) == 1
    assert with_it.keys() == without.keys()
    assert not [name for name, value in without.items() if not torch.equal(value, with_it[name])]


@pytest.mark.slow
def test_opening_a_config_says_nothing_that_the_user_need_not_know(example):
    code = (
        "from pathlib import Path\n"
        f"from data_plugin.frameworks.registry import {example.framework.name.upper()} as framework\n"
        f"config = framework.open({example.config!r}, {example.small!r}, Path({str(example.data_root)!r}))\n"
        "config.taps, config.images()[0]\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore:TRAINING DATA", "-c", code],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "CUDA_HOME"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    assert "warn" not in ran.stderr.lower()


@pytest.mark.slow
def test_a_tool_says_on_a_line_and_once_what_a_config_warns_of(example, tmp_path: Path):
    detects = example.framework.task == "detection"
    root = tmp_path / "data"
    if detects:
        with_classes(example.data_root, root, ["raccoon", "kangaroo"])
    else:
        shutil.copytree(example.data_root, root)
        (root / CLASS_LIST).write_text("meadow\nforest\n")
    command = [sys.executable, "-m", f"data_plugin.tools.search_{'det' if detects else 'seg'}", "--dry-run"]
    command += ["--config", example.config, "--framework", example.framework.name, "--data-root", str(root)]
    command += ["--samples", "2", "--image-count", "2", "--opts", *example.small]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = ran.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in said), ran.stderr
    assert len(set(said)) == len(said), ran.stderr
    assert sum("classes of their own" in line for line in said) == detects, ran.stderr


def test_unknown_names_list_the_known_ones(example):
    with pytest.raises(UserError, match=rf"'resnet' is neither a file nor a .* known names: .*{example.config}"):
        example.framework.open("resnet")
