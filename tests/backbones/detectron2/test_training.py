"""detectron2's trainer under the adapter, on a few drawn images."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

SMALL = Arch.parse("d1-1-1-1_w8-8-8-8-8")
QUICK = [
    f"MODEL.DATA_RESNET.ARCH={SMALL}",
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TRAIN=(64,)",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.BASE_LR=0.001",
    "SOLVER.MAX_ITER=2",
    "SOLVER.STEPS=()",
    "TEST.PRECISE_BN.NUM_ITER=1",
    "MODEL.RPN.POST_NMS_TOPK_TEST=20",
]


def load(root: Path, *options: str, name: str = "faster_rcnn_c4_voc") -> adapter.Detectron2Config:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*VOC2012")
        return adapter.Detectron2Config(DETECTRON2.configs.find(name), [*QUICK, *options], root)


@pytest.fixture
def own_voc(drawn_voc, tmp_path) -> Path:
    """A copy of the data set that may be damaged."""
    return shutil.copytree(drawn_voc, tmp_path / "own")


@pytest.fixture
def backbone(tmp_path) -> Path:
    save_backbone(tmp_path / "backbone", DATAResNet(SMALL))
    return tmp_path / "backbone" / PTH_FILE


# Training


def log(out: Path) -> str:
    return (out / "log.txt").read_text()


def test_finetune_evaluate_and_resume(drawn_voc, backbone, tmp_path):
    out = tmp_path / "out"
    load(drawn_voc).write(SMALL, backbone, tmp_path / "winner.yaml")
    config, steps = load(drawn_voc, name=str(tmp_path / "winner.yaml")), []
    figures = config.finetune(out, stepped=lambda step: steps.append((step, (out / "model_final.pth").exists())))
    assert steps == [(1, False), (2, True)]
    assert set(figures) == {"AP", "AP50", "AP75"}
    assert all(0 <= value <= 100 for value in figures.values())
    said = re.findall(r"the weights of (\S+) in (\w+): (\d+) of (\d+) matched, none missing, none unexp", log(out))
    assert {(arch, module) for arch, module, *_ in said} == {(str(SMALL), "DATAResNet"), (str(SMALL), "Res5Stage")}
    assert all(matched == expected for *_, matched, expected in said)
    trained = torch.load(out / "model_final.pth", weights_only=True)
    assert trained["iteration"] == 1
    start = torch.load(backbone, weights_only=True)["layer4.0.conv2.weight"]
    moved = (trained["model"]["roi_heads.res5.layer4.0.conv2.weight"] - start).abs()
    assert 0 < moved.max() < 0.1, "training has to start from the backbone's weights"

    steps.clear()
    assert config.finetune(out, eval_only=True, stepped=steps.append) == figures
    assert steps == [0]
    assert config.finetune(tmp_path / "elsewhere", eval_only=True, weights=out / "model_final.pth") == figures

    load(drawn_voc, "SOLVER.MAX_ITER=3", name=str(tmp_path / "winner.yaml")).finetune(out, resume=True)
    resumed = torch.load(out / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 2
    assert resumed["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 3


def test_a_data_root_is_that_of_its_own_runs_alone(drawn_voc, backbone, tmp_path):
    names = ("voc_2007_trainval", "voc_2007_test")
    before = [(DatasetCatalog[name], MetadataCatalog.get(name).as_dict()) for name in names]
    load(drawn_voc).write(SMALL, backbone, tmp_path / "winner.yaml")
    load(drawn_voc, name=str(tmp_path / "winner.yaml")).finetune(tmp_path / "out")
    assert [(DatasetCatalog[name], MetadataCatalog.get(name).as_dict()) for name in names] == before


def test_every_run_of_a_process_has_a_log_of_its_own(drawn_voc, backbone, tmp_path, capsys):
    load(drawn_voc).write(SMALL, backbone, tmp_path / "winner.yaml")
    config, first, second = load(drawn_voc, name=str(tmp_path / "winner.yaml")), tmp_path / "first", tmp_path / "second"
    config.finetune(first)
    alone, _ = log(first), capsys.readouterr()
    config.finetune(second)
    assert capsys.readouterr().out.count("Starting training from iteration") == 1
    assert log(first) == alone
    config.finetune(first, eval_only=True)
    assert len(log(first)) > len(alone), "a run in the folder of an earlier one logs there again"


STOCK_SCRIPT = """
import sys
import data_plugin.backbones.detectron2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import PascalVOCDetectionEvaluator

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
stored = torch.load(cfg.MODEL.WEIGHTS.partition("?")[0])
assert torch.equal(trainer.model.backbone.layer3[0].conv2.weight, stored["layer3.0.conv2.weight"])
assert torch.equal(trainer.model.roi_heads.res5.layer4[0].conv2.weight, stored["layer4.0.conv2.weight"])
trainer.train()
DefaultTrainer.test(cfg, trainer.model, PascalVOCDetectionEvaluator("voc_2007_test"))
cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR + "/model_final.pth"
found = DefaultPredictor(cfg)(np.zeros((60, 80, 3), dtype=np.uint8))
print("detections", len(found["instances"]))
"""


@pytest.mark.slow
def test_written_config_trains_in_a_script_that_knows_detectron2_alone(drawn_voc, backbone, tmp_path):
    load(drawn_voc).write(SMALL, backbone, tmp_path / "winner.yaml")
    done = subprocess.run(
        [sys.executable, "-c", STOCK_SCRIPT, str(tmp_path / "winner.yaml"), "OUTPUT_DIR", str(tmp_path)],
        env={**os.environ, "DETECTRON2_DATASETS": str(drawn_voc)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "detections" in done.stdout


def test_training_from_random_weights_is_said(drawn_voc, tmp_path):
    with pytest.warns(UserWarning, match="random weights"):
        load(drawn_voc, "SOLVER.MAX_ITER=1").finetune(tmp_path / "out")


def refused(words: str, config: adapter.Detectron2Config, out: Path, **options) -> None:
    with pytest.raises(UserError, match=words) as caught:
        config.finetune(out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_what_cannot_be_trained_is_refused_before_anything_is_written(own_voc, backbone, tmp_path):
    out = tmp_path / "out"
    weights = f"MODEL.WEIGHTS={backbone}"
    refused("no checkpoint to evaluate", load(own_voc, weights), out, eval_only=True)
    refused("no checkpoint to resume", load(own_voc, weights), out, resume=True)
    refused("leave the weights", load(own_voc, weights), out, resume=True, weights=backbone)
    refused("absent.pth is not a file", load(own_voc, "MODEL.WEIGHTS=absent.pth"), out)
    wider = "MODEL.DATA_RESNET.ARCH=d1-1-2-1_w8-8-8-8-16"
    refused("does not hold the backbone d1-1-2-1_w8-8-8-8-16: .* missing", load(own_voc, weights, wider), out)
    refused("object of class .*NUM_CLASSES is 2", load(own_voc, weights, "MODEL.ROI_HEADS.NUM_CLASSES=2"), out)
    refused("does not hold a detector", load(own_voc), out, eval_only=True, weights=other_file(tmp_path))
    annotation = next((own_voc / "VOC2007" / "Annotations").glob("0*.xml"))
    annotation.write_text("no annotation")
    with pytest.raises(UserError, match=f"{annotation.name} is missing or not an annotation in XML"):
        load(own_voc, weights)


def other_file(folder: Path) -> Path:
    path = folder / "other.pth"
    torch.save({"something": torch.zeros(1)}, path)
    return path


def test_evaluating_a_backbone_alone_is_refused(own_voc, backbone, tmp_path):
    refused("does not hold a detector", load(own_voc), tmp_path / "out", eval_only=True, weights=backbone)


# Several processes


RANK_SCRIPT = """
import json, sys
from pathlib import Path
from torch import distributed
from data_plugin.backbones.detectron2 import Detectron2Config, Trainer

seen, train = {}, Trainer.train
def watched(self):
    train(self)
    wrapper = self._trainer.model
    seen["kinds"] = [type(wrapper).__name__, type(wrapper.module.backbone.bn1).__name__]
    seen["weights"] = [float(p.detach().double().sum()) for p in wrapper.parameters()]
Trainer.train = watched
out = Path(sys.argv[2])
config = Detectron2Config(Path(sys.argv[1]), sys.argv[4:], Path(sys.argv[3]))
seen["figures"] = config.finetune(out)
(out / f"rank{distributed.get_rank()}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_two_processes_on_the_cpu_hold_the_same_weights_and_figures(drawn_voc, backbone, tmp_path):
    load(drawn_voc).write(SMALL, backbone, tmp_path / "winner.yaml")
    (tmp_path / "train.py").write_text(RANK_SCRIPT)
    ran = torchrun(2, tmp_path / "train.py", tmp_path / "winner.yaml", tmp_path / "out", drawn_voc)
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, second = (json.loads((tmp_path / "out" / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["kinds"] == ["DistributedDataParallel", "NaiveSyncBatchNorm"]
    assert set(first["figures"]) == {"AP", "AP50", "AP75"}
    assert "SyncBN needs GPUs" in ran.stderr
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 1


def torchrun(count: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*launch, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=500,
    )


def test_images_that_cannot_be_shared_out_evenly_are_refused(drawn_voc, backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    config = load(drawn_voc, f"MODEL.WEIGHTS={backbone}", "SOLVER.IMS_PER_BATCH=3")
    refused(r"IMS_PER_BATCH is 3, but 2 processes share it; give a multiple of 2", config, tmp_path / "out")


def test_mixed_precision_without_a_gpu_is_refused(drawn_voc, backbone, tmp_path):
    words = "SOLVER.AMP.ENABLED is True, and detectron2 trains in mixed precision on GPUs only"
    refused(words, load(drawn_voc, f"MODEL.WEIGHTS={backbone}", "SOLVER.AMP.ENABLED=True"), tmp_path / "out")
