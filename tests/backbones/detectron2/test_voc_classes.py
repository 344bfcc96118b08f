"""Data in VOC's layout with classes of its own in detectron2, from the config to a scored detector."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from samples import drawn_names, with_classes

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.modeling import build_model

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.backbones.detectron2.datasets import registered
from data_plugin.backbones.detectron2.own_classes import register_classes
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.images.voc import CLASSES
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT", "ignore:.*classes of their own")

SMALL = Arch.parse("d1-1-1-1_w8-8-8-8-8")
OWN = ("raccoon", "kangaroo")
QUICK = [
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TRAIN=(64,)",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.BASE_LR=0.001",
    "SOLVER.MAX_ITER=1",
    "SOLVER.STEPS=()",
    "TEST.PRECISE_BN.NUM_ITER=1",
    "MODEL.RPN.POST_NMS_TOPK_TEST=20",
]


@pytest.fixture
def voc(drawn_voc: Path, tmp_path: Path) -> Path:
    return with_classes(drawn_voc, tmp_path / "own", OWN)


def load(
    root: Path | None, *options: str, name: str | Path = "faster_rcnn_c4_voc", classes: Sequence[str] | None = None
) -> adapter.Detectron2Config:
    return adapter.Detectron2Config(DETECTRON2.configs.find(str(name)), [*QUICK, *options], root, classes)


def written(folder: Path, config: adapter.Detectron2Config) -> Path:
    save_backbone(folder, DATAResNet(SMALL))
    config.write(SMALL, folder / PTH_FILE, folder / "winner.yaml")
    return folder / "winner.yaml"


def labels(name: str) -> list[list[str]]:
    """What detectron2's catalogs label every image with, by the names that they have for it."""
    names = MetadataCatalog.get(name).thing_classes
    return [[names[each["category_id"]] for each in record["annotations"]] for record in DatasetCatalog.get(name)]


@pytest.mark.parametrize("config", ["faster_rcnn_c4_voc", "faster_rcnn_fpn_voc"])
def test_a_written_config_holds_the_classes(voc: Path, tmp_path: Path, config: str):
    opened = load(voc, name=config)
    for data_set in opened._placed:  # else the catalogs have those of whatever test ran before
        data_set.register()
    cfg = load(None, name=written(tmp_path, opened)).cfg
    assert cfg.DATASETS.CLASSES == ("kangaroo", "raccoon")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 2


def test_vocs_twenty_stay(drawn_voc: Path):
    cfg = load(drawn_voc).cfg
    assert (cfg.DATASETS.CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == ((), 20)


def test_named_classes_keep_their_order_in_the_config_and_after_it(voc: Path, tmp_path: Path):
    path = written(tmp_path, load(voc, classes=OWN))
    assert load(voc, name=path).cfg.DATASETS.CLASSES == OWN
    assert load(voc, name=path, classes=("kangaroo", "raccoon")).cfg.DATASETS.CLASSES == ("kangaroo", "raccoon")
    own = load(voc, "DATASETS.CLASSES=('raccoon','kangaroo')").cfg
    assert (own.DATASETS.CLASSES, own.MODEL.ROI_HEADS.NUM_CLASSES) == (OWN, 2)


def stock(path: Path):
    """The config as a script reads it that knows detectron2 alone."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_building_the_model_gives_detectron2s_catalogs_the_classes(voc: Path, tmp_path: Path):
    path = written(tmp_path, load(voc, classes=OWN))
    held = MetadataCatalog.get("voc_2007_test")
    vars(held)["dirname"] = str(voc / "VOC2007")
    build_model(stock(path))
    assert held.thing_classes == list(OWN)
    assert held.evaluator_type == "pascal_voc"
    assert labels("voc_2007_test") == drawn_names(voc, "test")
    build_model(stock(DETECTRON2.configs.find("faster_rcnn_c4_voc")))
    assert held.thing_classes == list(CLASSES)


def test_building_a_model_of_vocs_classes_leaves_a_users_data_set_alone(voc: Path):
    DatasetCatalog.pop("voc_2007_test")
    MetadataCatalog.pop("voc_2007_test")
    register_pascal_voc("voc_2007_test", str(voc / "VOC2007"), "test", 2007, OWN)
    build_model(stock(DETECTRON2.configs.find("faster_rcnn_c4_voc")))
    assert MetadataCatalog.get("voc_2007_test").thing_classes == list(OWN)
    assert labels("voc_2007_test") == drawn_names(voc, "test")


def test_some_classes_leave_the_others_objects_out(voc: Path, tmp_path: Path):
    with pytest.warns(UserWarning, match="not among raccoon are left out: kangaroo"):
        config = load(voc, classes=["raccoon"])
    config.finetune(tmp_path / "out")
    expected = [[name for name in names if name == "raccoon"] for names in drawn_names(voc, "test")]
    with registered(config._placed):
        register_classes(config.cfg)
        assert labels("voc_2007_test") == expected


def test_fine_tuning_reads_the_classes_of_another_data_root(voc: Path, tmp_path: Path):
    bare = shutil.copytree(voc, tmp_path / "bare")
    shutil.rmtree(bare / "VOC2007" / "Annotations")
    with pytest.warns(UserWarning, match="keeps VOC's twenty"):
        path = written(tmp_path, load(bare))
    figures = load(voc, name=path).finetune(tmp_path / "out")
    assert set(figures) == {"AP", "AP50", "AP75"}
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert state["roi_heads.box_predictor.cls_score.weight"].shape == (3, SMALL.out_channels[3])


def test_perfect_detections_score_a_hundred(voc: Path, tmp_path: Path, monkeypatch):
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import Boxes, Instances

    def inference(self, inputs):
        found = []
        for each in inputs:
            records = DatasetCatalog.get("voc_2007_test")
            (record,) = (record for record in records if record["image_id"] == each["image_id"])
            found.append(Instances((each["height"], each["width"])))
            found[-1].pred_boxes = Boxes(torch.tensor([item["bbox"] for item in record["annotations"]]))
            found[-1].pred_classes = torch.tensor([item["category_id"] for item in record["annotations"]])
            found[-1].scores = torch.ones(len(record["annotations"]))
        return [{"instances": each} for each in found]

    monkeypatch.setattr(GeneralizedRCNN, "inference", lambda self, inputs, *_, **__: inference(self, inputs))
    path = written(tmp_path, load(voc))
    figures = load(voc, name=path).finetune(tmp_path / "out")
    assert figures == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})


def refused(config: adapter.Detectron2Config, out: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config.finetune(out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_images_without_any_object_are_refused(voc: Path, tmp_path: Path):
    for name in (voc / "VOC2007/ImageSets/Main/trainval.txt").read_text().split():
        size = "<size><width>160</width><height>120</height></size>"
        (voc / "VOC2007" / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}</annotation>")
    refused(load(voc), tmp_path / "out", "voc_2007_trainval has no object in 8 images; expected labelled images")


@pytest.mark.parametrize(("old", "new"), [("<difficult>0</difficult>", ""), ("</xmin>", ".5</xmin>")])
def test_annotations_that_the_evaluator_cannot_read_are_named(voc: Path, tmp_path: Path, old: str, new: str):
    name = (voc / "VOC2007/ImageSets/Main/test.txt").read_text().split()[1]
    path = voc / "VOC2007" / "Annotations" / f"{name}.xml"
    path.write_text(path.read_text().replace(old, new))
    refused(load(voc), tmp_path / "out", rf"evaluator cannot read .*{name}.xml .* expected pose, truncated, difficult")


def test_classes_that_detectron2_cannot_evaluate_are_refused(voc: Path):
    with pytest.raises(UserError, match="evaluator writes a file of each class, so none can be called 'a/b'"):
        load(voc, classes=[*OWN, "a/b"])


def test_classes_are_for_vocs_and_cocos_objects_alone():
    with pytest.raises(UserError, match=r"the classes emu are given, but .* alone, and the config has cityscapes_fine"):
        load(None, name="mask_rcnn_fpn_cityscapes", classes=["emu"])


STOCK_SCRIPT = """
import sys
import data_plugin.backbones.detectron2
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import PascalVOCDetectionEvaluator

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
trainer.train()
evaluator = PascalVOCDetectionEvaluator("voc_2007_test")
DefaultTrainer.test(cfg, trainer.model, evaluator)
print("classes", evaluator._class_names, trainer.model.roi_heads.num_classes)
"""


@pytest.mark.slow
def test_written_config_trains_in_a_script_that_knows_detectron2_alone(voc: Path, tmp_path: Path):
    path = written(tmp_path, load(voc, classes=OWN))
    done = subprocess.run(
        [sys.executable, "-c", STOCK_SCRIPT, str(path), "OUTPUT_DIR", str(tmp_path / "out")],
        env={**os.environ, "DETECTRON2_DATASETS": str(voc)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "classes ['raccoon', 'kangaroo'] 2" in done.stdout
