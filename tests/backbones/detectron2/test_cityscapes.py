"""Cityscapes' instance labels in detectron2, from search to evaluation, on drawn images in the data set's layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")
pytest.importorskip("cityscapesscripts", reason="cityscapesscripts, which reads and evaluates Cityscapes, is missing")

from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from detectron2.data import DatasetCatalog
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from samples import random_supernet_file

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.backbones.detectron2.cityscapes import InstanceEvaluator, require_cityscapesscripts
from data_plugin.backbones.detectron2.datasets import below
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.tools import finetune_det, search_det

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SIZE = (256, 128)
"""Width and height; the evaluator leaves out objects of fewer than 100 pixels."""

QUICK = [
    "DATALOADER.NUM_WORKERS=0",
    "INPUT.MIN_SIZE_TRAIN=(64,)",
    "INPUT.MIN_SIZE_TEST=64",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=20",
    "MODEL.RPN.POST_NMS_TOPK_TEST=10",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.MAX_ITER=1",
    "SOLVER.STEPS=()",
    "TEST.DETECTIONS_PER_IMAGE=5",
    "TEST.PRECISE_BN.NUM_ITER=1",
]


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``cityscapes`` with 2 images to train on and 2 to evaluate, whose label images its own scripts draw."""
    root = tmp_path_factory.mktemp("data") / "cityscapes"
    random = np.random.default_rng(0)
    for split, city in (("train", "aachen"), ("val", "lindau")):
        images, labels = (root / folder / split / city for folder in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(2):
            stem = f"{city}_{index:06d}_000019"
            pixels = random.integers(0, 60, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
            road = [[0, 64], [255, 64], [255, 127], [0, 127]]
            objects = [{"label": "road", "polygon": road}]
            for column, name in enumerate((*CLASSES, "cargroup")):  # a group is no instance
                left, top = 2 + 28 * column, int(random.integers(8, 80))
                objects.append({"label": name, "polygon": rectangle(left, top, left + 22, top + 30)})
                pixels[top : top + 30, left : left + 22] += np.uint8(20 * (column % 8) + 20)
            Image.fromarray(pixels).save(images / f"{stem}_leftImg8bit.png")
            polygons = labels / f"{stem}_gtFine_polygons.json"
            polygons.write_text(json.dumps({"imgWidth": SIZE[0], "imgHeight": SIZE[1], "objects": objects}))
            annotation = Annotation()
            annotation.fromJsonFile(str(polygons))
            instances = createInstanceImage(annotation, "ids").convert("I;16")  # 16 bits, as the data set has them
            instances.save(labels / f"{stem}_gtFine_instanceIds.png")
            createLabelImage(annotation, "ids").save(labels / f"{stem}_gtFine_labelIds.png")
    return root


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_search_then_finetune(cityscapes: Path, tmp_path: Path, capsys) -> None:
    supernet = random_supernet_file(tmp_path / "s.safetensors")
    data = ["--data-root", str(cityscapes)]
    searching = ["--config", "mask_rcnn_fpn_cityscapes", "--supernet", str(supernet), *data]
    sizes = [
        "--group",
        "0-1",
        "--samples",
        "3",
        "--image-count",
        "2",
        "--batch-size",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert search_det.main([*searching, *sizes, "--opts", *QUICK]) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert (found["framework"], found["taps"]) == ("detectron2", ["C2", "C3", "C4", "C5"])
    config = tmp_path / "out" / found["winners"][0]["folder"] / "mask_rcnn_fpn_cityscapes.yaml"
    tuning = ["--config", str(config), *data, "--out", str(tmp_path / "tuned"), "--opts", "=".join(NOTHING_FOUND)]
    assert finetune_det.main(tuning) == 0
    figures = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert figures.keys() == {"mask AP", "mask AP50"}  # Cityscapes' own scripts score masks alone
    assert all(0 <= value <= 100 for value in figures.values())


def test_objects_are_those_of_the_label_images(cityscapes: Path) -> None:
    for data_set in below(cityscapes.parent, load(cityscapes).cfg):  # the folder that holds a folder cityscapes
        data_set.register()
        for record in DatasetCatalog.get(data_set.name):
            assert sorted(each["category_id"] for each in record["annotations"] if not each["iscrowd"]) == list(
                range(8)
            )
            ids = np.asarray(Image.open(label_image(record["file_name"])))
            assert len(np.unique(ids[ids >= 1000])) == 8


def test_perfect_masks_score_a_hundred(cityscapes: Path, tmp_path: Path, monkeypatch) -> None:
    save_backbone(tmp_path / "b", DATAResNet(Arch.parse("d1-1-1-1_w8-8-8-8-16")))
    weights = f"MODEL.WEIGHTS={tmp_path / 'b' / PTH_FILE}"
    config = load(cityscapes, weights, "MODEL.DATA_RESNET.ARCH=d1-1-1-1_w8-8-8-8-16")
    classes = {each.id: index for index, each in enumerate(instance_labels())}

    def oracle(self, batched_inputs, *_, **__):
        results = []
        for item in batched_inputs:
            ids = torch.from_numpy(np.asarray(Image.open(label_image(item["file_name"]))).astype(np.int64))
            found = Instances(tuple(ids.shape))
            instances = [value for value in ids.unique().tolist() if value >= 1000]
            found.pred_masks = torch.stack([ids == value for value in instances])
            found.pred_classes = torch.tensor([classes[value // 1000] for value in instances])
            found.pred_boxes, found.scores = Boxes(torch.zeros(len(instances), 4)), torch.ones(len(instances))
            results.append({"instances": found})
        return results

    monkeypatch.setattr(GeneralizedRCNN, "inference", oracle)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert config.finetune(tmp_path / "out") == pytest.approx({"mask AP": 100, "mask AP50": 100})
    assert not list(Path().iterdir())


def load(root: Path, *options: str) -> adapter.Detectron2Config:
    path = DETECTRON2.configs.find("mask_rcnn_fpn_cityscapes")
    return adapter.Detectron2Config(path, [*QUICK, "MODEL.DEVICE=cpu", *options], root)


def label_image(image: str) -> str:
    return image.replace("leftImg8bit", "gtFine", 1).replace("_leftImg8bit.png", "_gtFine_instanceIds.png")


def instance_labels() -> list:
    from cityscapesscripts.helpers.labels import labels

    return [each for each in labels if each.hasInstances and not each.ignoreInEval]


NOTHING_FOUND = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.1")
"""What an untrained detector finds now and then makes Cityscapes' scripts fail, where all of a class does not count."""

STOCK_SCRIPT = """
import sys
import data_plugin.backbones.detectron2
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import CityscapesInstanceEvaluator

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
trainer.train()
found = DefaultTrainer.test(cfg, trainer.model, CityscapesInstanceEvaluator("cityscapes_fine_instance_seg_val"))
print("found", sorted(found["segm"]))
"""


@pytest.mark.slow
def test_written_config_trains_in_a_script_that_knows_detectron2_alone(cityscapes: Path, tmp_path: Path) -> None:
    arch = Arch.parse("d1-1-1-1_w8-8-8-8-16")
    save_backbone(tmp_path / "b", DATAResNet(arch))
    load(cityscapes).write(arch, tmp_path / "b" / PTH_FILE, tmp_path / "winner.yaml")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STOCK_SCRIPT,
            str(tmp_path / "winner.yaml"),
            "OUTPUT_DIR",
            str(tmp_path),
            *NOTHING_FOUND,
        ],
        env={**os.environ, "DETECTRON2_DATASETS": str(cityscapes.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "found ['AP', 'AP50']" in done.stdout


# Bad input


def test_what_cityscapes_scripts_cannot_evaluate_is_said(monkeypatch) -> None:
    def fail(self) -> None:
        raise IndexError("index -1 is out of bounds for axis 0 with size 0")

    monkeypatch.setattr("detectron2.evaluation.CityscapesInstanceEvaluator.evaluate", fail)
    evaluator = InstanceEvaluator("cityscapes_fine_instance_seg_val")
    evaluator.reset()
    with pytest.raises(UserError, match="train it longer, then evaluate with --eval-only"):
        evaluator.evaluate()


def test_wrong_data_roots_are_refused(cityscapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not in Cityscapes' layout; expected leftImg8bit and gtFine"):
        load(tmp_path)
    (tmp_path / "leftImg8bit").symlink_to(cityscapes / "leftImg8bit")
    (tmp_path / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"gtFine/val of the data set cityscapes_fine_instance_seg_val is missing"):
        load(tmp_path).finetune(tmp_path / "out")
    shutil.copytree(cityscapes / "gtFine" / "val", tmp_path / "gtFine" / "val")
    with pytest.raises(UserError, match=r"cannot be read from .*leftImg8bit/train: .*instanceIds.png"):
        load(tmp_path).finetune(tmp_path / "out")


def test_labels_beyond_the_class_count_are_refused(cityscapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has an object of class \d.*NUM_CLASSES is 3; .* needs 8"):
        load(cityscapes, "MODEL.ROI_HEADS.NUM_CLASSES=3").finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_that_cityscapesscripts_lacks_is_named(monkeypatch) -> None:
    for name in [name for name in sys.modules if "cityscapesscripts." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyquaternion", None)
    with pytest.raises(UserError, match=r"pyquaternion.*; install it with: pip install cityscapesscripts"):
        require_cityscapesscripts()
