"""Data in COCO's layout with categories of its own in detectron2, from the config to a scored detector."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from samples import OBJECTS, draw_own_coco, random_supernet_file

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import BitMasks, Instances

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.tools import search_det

pytestmark = pytest.mark.filterwarnings("ignore:.*lists categories of its own")

SMALL = Arch.parse("d1-1-1-1_w8-8-8-8-8")
BY_ID = ("vehicle", "walker", "hound")
TURNED = ("hound", "vehicle", "walker")
QUICK = [
    "MODEL.DEVICE=cpu",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=50",
    "MODEL.RPN.POST_NMS_TOPK_TEST=10",
    "INPUT.MIN_SIZE_TRAIN=(64,)",
    "INPUT.MIN_SIZE_TEST=64",
    "INPUT.RANDOM_FLIP=none",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.BASE_LR=0.001",
    "SOLVER.MAX_ITER=2",
    "SOLVER.STEPS=()",
    "TEST.PRECISE_BN.NUM_ITER=1",
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return draw_own_coco(tmp_path_factory.mktemp("data") / "coco")


def load(
    root: Path | None, *options: str, name: str | Path = "mask_rcnn_fpn_coco", classes: Sequence[str] | None = None
) -> adapter.Detectron2Config:
    return adapter.Detectron2Config(DETECTRON2.configs.find(str(name)), [*QUICK, *options], root, classes)


def written(folder: Path, config: adapter.Detectron2Config) -> Path:
    save_backbone(folder, DATAResNet(SMALL))
    config.write(SMALL, folder / PTH_FILE, folder / "winner.yaml")
    return folder / "winner.yaml"


def labels(name: str) -> list[list[int]]:
    return [[each["category_id"] for each in record["annotations"]] for record in DatasetCatalog.get(name)]


def stock(path: Path):
    """The config as a script reads it that knows detectron2 alone."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def place(root: Path) -> None:
    """What the environment variable DETECTRON2_DATASETS does where detectron2 is imported."""
    for split in ("train", "val"):
        folder = {"image_root": str(root / f"{split}2017")}
        file = {"json_file": str(root / "annotations" / f"instances_{split}2017.json")}
        vars(MetadataCatalog.get(f"coco_2017_{split}")).update(**folder, **file)


@pytest.mark.parametrize("classes", [BY_ID, TURNED, ("walker", "hound")])
@pytest.mark.filterwarnings("ignore:objects of the categories")
def test_building_the_model_of_a_written_config_labels_every_object_by_its_class(coco: Path, tmp_path: Path, classes):
    path = written(tmp_path, load(coco, classes=None if classes == BY_ID else classes))
    place(coco)
    cfg = stock(path)
    assert classes == cfg.DATASETS.CLASSES
    heads = build_model(cfg).roi_heads
    assert heads.num_classes == heads.mask_head.predictor.out_channels == len(classes)
    expected = [classes.index(name) for name in OBJECTS if name in classes]
    assert labels("coco_2017_train") == [expected] * 4
    assert labels("coco_2017_val") == [expected] * 2
    assert tuple(MetadataCatalog.get("coco_2017_val").thing_classes) == classes


def test_a_config_of_cocos_classes_gets_the_files_back(coco: Path, tmp_path: Path):
    place(coco)
    build_model(stock(written(tmp_path, load(coco, classes=TURNED))))
    build_model(stock(DETECTRON2.configs.find("mask_rcnn_fpn_coco")))
    assert labels("coco_2017_val") == [[BY_ID.index(name) for name in OBJECTS]] * 2
    assert MetadataCatalog.get("coco_2017_val").thing_classes == list(BY_ID)


def test_every_meta_architecture_follows(coco: Path):
    cfg = load(coco, name="retinanet_fpn_coco").cfg
    assert (cfg.DATASETS.CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES) == (BY_ID, 3)
    cascade = load(None, name="Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml").cfg
    assert cascade.MODEL.ROI_HEADS.NUM_CLASSES == 80
    with pytest.warns(UserWarning, match="DATAResNet takes the place"):
        cascade = load(coco, name="Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml").cfg
    cascade.MODEL.DEVICE = "cpu"
    assert [each.cls_score.out_features for each in build_model(cascade).roi_heads.box_predictor] == [4, 4, 4]


def test_a_detector_that_misses_one_class_scores_nothing_of_it_by_name(coco: Path, tmp_path: Path, monkeypatch):
    config = load(None, name=written(tmp_path, load(coco, classes=TURNED)), classes=TURNED)
    place(coco)

    def inference(self, inputs, *_, **__):
        records = {record["image_id"]: record for record in DatasetCatalog.get("coco_2017_val")}
        return [{"instances": perfect(config.cfg, records[each["image_id"]])} for each in inputs]

    monkeypatch.setattr(GeneralizedRCNN, "inference", inference)
    figures = config.finetune(tmp_path / "out")
    assert (figures["AP"], figures["mask AP"]) == pytest.approx((200 / 3, 200 / 3), abs=0.1)
    rows = re.findall(r"(hound|vehicle|walker) +\| (\d+\.\d+)", (tmp_path / "out" / "log.txt").read_text())
    assert rows == [("hound", "100.000"), ("vehicle", "0.000"), ("walker", "100.000")] * 2  # boxes, masks
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert len(state["roi_heads.box_predictor.cls_score.weight"]) == len(TURNED) + 1
    again = config.finetune(tmp_path / "out", eval_only=True)
    assert again == pytest.approx(figures)


def perfect(cfg, record: dict) -> Instances:
    """What is labelled in an image, but for the vehicles."""
    truth = DatasetMapper(cfg, is_train=True)(record)["instances"]
    truth = truth[truth.gt_classes != TURNED.index("vehicle")]
    found = Instances(truth.image_size)
    found.pred_boxes, found.pred_classes = truth.gt_boxes, truth.gt_classes
    found.pred_masks = BitMasks.from_polygon_masks(truth.gt_masks, *truth.image_size).tensor
    found.scores = torch.ones(len(truth))
    return found


def test_the_data_open_again_after_a_training_in_the_same_process(coco: Path, tmp_path: Path):
    path = written(tmp_path, load(coco, classes=TURNED))
    figures = [load(coco, name=path).finetune(tmp_path / f"out{run}") for run in range(2)]
    assert figures[0] == pytest.approx(figures[1], abs=0.2)
    again = load(coco)
    assert again.cfg.DATASETS.CLASSES == BY_ID
    assert len(again.images()) == 4
    assert len(load(draw_own_coco(tmp_path / "other", train=3)).images()) == 3


def test_a_search_opens_the_data_again_to_fine_tune(coco: Path, tmp_path: Path, monkeypatch):
    trained = []

    def train(cfg, out: Path, *, stepped, **_):
        assert labels("coco_2017_train") == [[BY_ID.index(name) for name in OBJECTS]] * 4
        trained.append(out)
        stepped(1)
        return {"AP": 1.0, "AP50": 2.0, "AP75": 3.0}

    monkeypatch.setattr("data_plugin.backbones.detectron2.config.finetune", train)
    supernet = random_supernet_file(tmp_path / "supernet.safetensors")
    arguments = ["--config", "faster_rcnn_fpn_coco", "--framework", "detectron2", "--data-root", coco]
    arguments += ["--supernet", supernet, "--group", "0-1", "--samples", "1", "--image-count", "2", "--finetune", "1"]
    assert search_det.main([*map(str, arguments), "--out", str(tmp_path / "out"), "--opts", *QUICK]) == 0
    assert len(trained) > 1


def rewrite(root: Path, split: str, change) -> Path:
    path = root / "annotations" / f"instances_{split}.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))
    return path


def test_files_of_different_categories_are_refused(tmp_path: Path):
    root = draw_own_coco(tmp_path / "coco")
    rewrite(root, "val2017", lambda it: it["categories"].pop())
    with pytest.raises(UserError, match=r"instances_train2017.json and .*instances_val2017.json list different"):
        load(root)


def test_annotations_of_a_category_that_is_not_listed_are_refused(tmp_path: Path):
    root = draw_own_coco(tmp_path / "coco")
    path = rewrite(root, "train2017", lambda it: it["annotations"][0].update(category_id=4))
    with pytest.raises(UserError, match=rf"{path} has annotations of category 4, but its categories do not list that"):
        load(root).finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


STOCK_SCRIPT = """
import sys
import data_plugin.backbones.detectron2
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
trainer.train()
evaluator = COCOEvaluator("coco_2017_val", output_dir=cfg.OUTPUT_DIR)
found = DefaultTrainer.test(cfg, trainer.model, evaluator)
print("classes", evaluator._metadata.thing_classes, [name for name in found["bbox"] if name.startswith("AP-")])
"""


@pytest.mark.slow
def test_written_config_trains_in_a_script_that_knows_detectron2_alone(coco: Path, tmp_path: Path):
    path = written(tmp_path, load(coco, "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", classes=TURNED))
    done = subprocess.run(
        [sys.executable, "-c", STOCK_SCRIPT, str(path), "OUTPUT_DIR", str(tmp_path / "out")],
        env={**os.environ, "DETECTRON2_DATASETS": str(coco.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "classes ['hound', 'vehicle', 'walker'] ['AP-hound', 'AP-vehicle', 'AP-walker']" in done.stdout
