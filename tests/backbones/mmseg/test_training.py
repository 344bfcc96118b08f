"""Search and fine-tuning through MMSegmentation, on a handful of drawn images."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

import mmseg
from mmengine.structures import PixelData
from processes import in_processes
from samples import random_supernet_file

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmseg.config import MMSegConfig
from data_plugin.frameworks.registry import MMSEG
from data_plugin.images.input_format import InputFormat
from data_plugin.space import cost
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.tools import finetune_seg, search_seg

ARCH = Arch.parse("d1-1-1-1_w8-8-8-8-16")
SMALL_IMAGES = [
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "test_dataloader.num_workers=0",
    "train_dataloader.dataset.pipeline.2.scale=(96,64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(48,48)",
    "val_dataloader.dataset.pipeline.1.scale=(96,64)",
    "test_dataloader.dataset.pipeline.1.scale=(96,64)",
    "model.data_preprocessor.size=(48,48)",
    "model.test_cfg.mode=whole",
]
TINY = [
    *SMALL_IMAGES,
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
    "model.decode_head.channels=8",
    "model.auxiliary_head.channels=8",
]


@pytest.fixture(scope="module")
def winner(tmp_path_factory, drawn_cityscapes: Path) -> Path:
    folder = tmp_path_factory.mktemp("winner")
    save_backbone(folder, DATAResNet(ARCH))
    load("fcn_d8_cityscapes", drawn_cityscapes).write(ARCH, folder / PTH_FILE, folder / "config.py")
    return folder / "config.py"


def load(config: str | Path, root: Path | None = None, *options: str) -> MMSegConfig:
    return MMSegConfig(MMSEG.configs.find(str(config)), options, root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, winner: Path) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("runs") / "out"
    return out, dict(load(winner, None, *TINY).finetune(out))


def read(path: Path) -> dict:
    return torch.load(path, weights_only=False)  # written by this test


def test_training_evaluates_and_a_second_call_gives_the_same_figures(trained, winner: Path) -> None:
    out, metrics = trained
    assert metrics.keys() == {"mIoU", "aAcc", "mAcc"}
    assert all(0 <= value <= 100 for value in metrics.values())
    (log,) = out.rglob("*.log")
    assert log.read_text().count("per class results") == 1, "what was tried before the training is not to be seen"
    again = load(winner, None, *TINY).finetune(out, eval_only=True)
    assert again == pytest.approx(metrics)


@pytest.mark.parametrize(("wrong", "miou"), [(0, 100.0), (1, 0.0)])
def test_perfect_predictions_score_a_hundred_and_wrong_ones_nothing(trained, winner, monkeypatch, wrong, miou) -> None:
    from mmseg.models.segmentors import EncoderDecoder

    def predict(self, inputs, samples):
        for sample in samples:
            sample.pred_sem_seg = PixelData(data=(sample.gt_sem_seg.data + wrong) % 19)
        return samples

    monkeypatch.setattr(EncoderDecoder, "predict", predict)
    found = load(winner, None, *TINY).finetune(trained[0], eval_only=True)
    assert found == pytest.approx({"mIoU": miou, "aAcc": miou, "mAcc": miou})


def test_training_starts_from_the_backbone_and_moves_everything(trained, winner: Path) -> None:
    before = torch.load(winner.parent / PTH_FILE, weights_only=True)
    after = read(trained[0] / "iter_2.pth")["state_dict"]
    for name, value in before.items():
        if name.endswith("weight") and value.ndim == 4:
            assert not torch.equal(after[f"backbone.{name}"], value), name
            torch.testing.assert_close(after[f"backbone.{name}"], value, atol=0.1, rtol=0)


def test_resume_goes_on_where_the_run_stopped(trained, winner: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    (out / "last_checkpoint").write_text("/moved/away/iter_2.pth")
    longer = load(winner, None, *TINY, "train_cfg.max_iters=3")
    longer.finetune(out, resume=True)
    first, last = (read(out / f"iter_{iteration}.pth") for iteration in (2, 3))
    assert last["meta"]["iter"] == 3
    assert [scheduler["last_step"] for scheduler in last["param_schedulers"]] == [3]
    moved = [name for name, value in last["state_dict"].items() if not torch.equal(value, first["state_dict"][name])]
    assert "backbone.conv1.weight" in moved
    # Nothing is left to do: only the evaluation is repeated.
    assert longer.finetune(out, resume=True).keys() == {"mIoU", "aAcc", "mAcc"}


def test_precise_batch_norm_runs_before_the_evaluation(winner: Path, tmp_path: Path) -> None:
    config = load(winner, None, *TINY)
    config.cfg.custom_hooks = [{"type": "PreciseBNHook", "num_iters": 3}]
    config.finetune(tmp_path / "out")
    state = read(tmp_path / "out/iter_2.pth")["state_dict"]
    counts = {value.item() for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert counts == {3}


def by_mmsegs_launcher(winner: Path, out: Path) -> None:
    launcher = Path(mmseg.__file__).parent / ".mim/tools/train.py"
    workers = [f"{name}_dataloader.persistent_workers=False" for name in ("train", "val")]
    command = [sys.executable, launcher, winner, "--work-dir", out, "--cfg-options", *TINY, *workers]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def by_the_tool_in_two_processes(winner: Path, out: Path) -> None:
    in_processes(out.parent, 2, finetune_seg.main, ["--config", str(winner), "--out", str(out), "--opts", *TINY])


@pytest.mark.slow
@pytest.mark.parametrize("train", [by_mmsegs_launcher, by_the_tool_in_two_processes])
def test_the_written_config_trains(winner: Path, tmp_path: Path, train: Callable[[Path, Path], None]) -> None:
    train(winner, tmp_path / "out")
    trained = read(tmp_path / "out/iter_2.pth")["state_dict"]["backbone.layer4.0.conv1.weight"]
    before = torch.load(winner.parent / PTH_FILE, weights_only=True)["layer4.0.conv1.weight"]
    assert not torch.equal(trained, before)
    torch.testing.assert_close(trained, before, atol=0.1, rtol=0)


# Bad input


def test_weights_of_another_architecture_are_refused(trained, winner: Path, tmp_path: Path) -> None:
    wider = load(winner, None, *TINY, "model.backbone.arch=d1-1-1-1_w8-8-16-8-16")
    with pytest.raises(UserError, match=r"backbone.pth does not hold the weights of d1-1-1-1_w8-8-16-8-16: .*shape"):
        wider.finetune(tmp_path / "out")
    with pytest.raises(UserError, match=r"iter_2.pth does not hold the weights of this config's model"):
        wider.finetune(tmp_path / "out", eval_only=True, weights=trained[0] / "iter_2.pth")
    assert not (tmp_path / "out").exists()


def damage_label(root: Path, split: str, change) -> Path:
    path = sorted((root / "gtFine" / split).rglob("*_labelTrainIds.png"))[-1]
    change(path)
    return path


def write(label: np.ndarray):
    return lambda path: Image.fromarray(label).save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write(np.full((64, 96), 19, dtype=np.uint8)), r"has the label 19; CityscapesDataset has 0 to 18, and 255"),
        (write(np.full((64, 96), 300, dtype=np.uint16)), "has the label 300"),
        (write(np.zeros((64, 96, 3), dtype=np.uint8)), "has 3 channels; expected one"),
        (lambda path: path.unlink(), "cannot be read as labels"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read as labels"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_unusable_labels_are_named(drawn_cityscapes, winner, tmp_path, capsys, change, message, split) -> None:
    shutil.copytree(drawn_cityscapes, tmp_path / "c")
    path = damage_label(tmp_path / "c", split, change)
    arguments = ["--config", str(winner), "--data-root", str(tmp_path / "c"), "--out", str(tmp_path / "out")]
    assert finetune_seg.main([*arguments, "--opts", *TINY]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert path.name in error
    with pytest.raises(UserError, match=message):
        load(winner, tmp_path / "c", *TINY).finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_of_other_classes_is_refused(winner: Path, tmp_path: Path) -> None:
    config = load(winner, None, *TINY, "model.decode_head.num_classes=18")
    with pytest.raises(UserError, match=r"num_classes=18, but CityscapesDataset has 19 classes"):
        config.finetune(tmp_path / "out")
    with pytest.raises(UserError, match="expected type='IoUMetric' with iou_metrics="):
        load(winner, None, *TINY, "val_evaluator.type=CityscapesMetric").finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The tools


def test_search_then_finetune(drawn_cityscapes: Path, tmp_path: Path, capsys) -> None:
    supernet = random_supernet_file(tmp_path / "s.safetensors")
    searching = ["--config", "fcn_d8_cityscapes", "--supernet", str(supernet), "--group", "0-1"]
    data = ["--data-root", str(drawn_cityscapes)]
    sizes = ["--samples", "5", "--image-count", "3", "--batch-size", "2", "--device", "cpu"]
    out = tmp_path / "out"
    assert search_seg.main([*searching, *data, *sizes, "--out", str(out), "--opts", *SMALL_IMAGES]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "search.json").read_text())
    assert found["framework"] == "mmseg"
    assert found["taps"] == ["C4", "C5"]
    assert found["run"]["resolution"] == {
        "strides": [1, 2, 1, 1],
        "dilations": [1, 1, 2, 4],
        "contract_dilation": True,
    }
    assert set(found["run"]["versions"]) >= {"onedl-mmsegmentation", "torch"}
    (winner,) = found["winners"]
    assert winner["flops"] == cost.flops(Arch.parse(winner["arch"]))  # the papers' count, at output stride 32
    config = out / winner["folder"] / "fcn_d8_cityscapes.py"
    assert printed.count(f" --config {config} --data-root") == 1
    tuned = tmp_path / "tuned"
    assert finetune_seg.main(["--config", str(config), *data, "--out", str(tuned), "--opts", *TINY]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert json.loads((tuned / "metrics.json").read_text()).keys() == {"mIoU", "aAcc", "mAcc"}


def test_a_supernet_of_another_channel_order_is_refused(drawn_cityscapes: Path, tmp_path: Path, capsys) -> None:
    form = InputFormat("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    supernet = random_supernet_file(tmp_path / "s.safetensors", input_format=form)
    searching = ["--config", "fcn_d8_cityscapes", "--supernet", str(supernet), "--group", "0-1"]
    assert search_seg.main([*searching, "--data-root", str(drawn_cityscapes), "--out", str(tmp_path / "out")]) == 2
    assert "the supernet was pre-trained on BGR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
