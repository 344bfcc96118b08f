"""detectron2's COCO and Cityscapes data sets under the adapter: data roots, labels, training, figures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultTrainer, SimpleTrainer, hooks
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator, inference_on_dataset

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.backbones.detectron2 import lazy_with_data_resnet
from data_plugin.backbones.detectron2.datasets import below, registered
from data_plugin.backbones.detectron2.own_classes import register_classes
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.images.voc import CLASSES
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:DATAResNet takes the place")

SMALL = Arch.parse("d1-1-1-1_w8-8-8-8-8")
QUICK = [
    f"MODEL.DATA_RESNET.ARCH={SMALL}",
    "MODEL.DEVICE=cpu",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=50",
    "MODEL.RPN.POST_NMS_TOPK_TEST=10",
    "INPUT.MIN_SIZE_TRAIN=(64,)",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.BASE_LR=0.001",
    "SOLVER.MAX_ITER=2",
    "SOLVER.STEPS=()",
    "TEST.PRECISE_BN.NUM_ITER=1",
    "TEST.DETECTIONS_PER_IMAGE=5",
]


def load(root: Path | None, *options: str, name: str = "mask_rcnn_fpn_coco") -> adapter.Detectron2Config:
    return adapter.Detectron2Config(DETECTRON2.configs.find(name), [*QUICK, *options], root)


CATEGORIES = [{"id": each["id"], "name": each["name"]} for each in COCO_CATEGORIES if each["isthing"]]
"""COCO's own 80, whose ids have gaps; the drawn VOC classes stand for the first 20."""


def category_id(name: str) -> int:
    return CATEGORIES[CLASSES.index(name)]["id"]


def convert(voc: Path, split: str, images: Path, json_file: Path) -> None:
    """Write a split of a VOC data set as COCO describes it, every object a rhombus in its box."""
    images.mkdir(parents=True)
    found: dict[str, list[dict]] = {"images": [], "annotations": []}
    for number, name in enumerate((voc / "ImageSets" / "Main" / f"{split}.txt").read_text().split(), start=1):
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", images)
        tree = ElementTree.parse(voc / "Annotations" / f"{name}.xml")
        width, height = (int(tree.findtext(f"size/{key}")) for key in ("width", "height"))
        found["images"].append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
        for item in tree.findall("object"):
            left, top, right, bottom = (
                int(item.findtext(f"bndbox/{key}")) - 1 for key in ("xmin", "ymin", "xmax", "ymax")
            )
            x, y = (left + right) / 2, (top + bottom) / 2
            box = [left, top, right - left, bottom - top]
            found["annotations"].append(
                {
                    "id": len(found["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category_id(item.findtext("name")),
                    "iscrowd": 0,
                    "bbox": box,
                    "area": box[2] * box[3] / 2,
                    "segmentation": [[left, y, x, top, right, y, x, bottom]],
                }
            )
    json_file.parent.mkdir(exist_ok=True)
    json_file.write_text(json.dumps({**found, "categories": CATEGORIES}))


@pytest.fixture(scope="session")
def drawn_coco(drawn_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in COCO layout: 8 drawn images in train2017, 4 in val2017."""
    root = tmp_path_factory.mktemp("coco")
    for voc_split, split in (("trainval", "train2017"), ("test", "val2017")):
        convert(drawn_voc / "VOC2007", voc_split, root / split, root / "annotations" / f"instances_{split}.json")
    return root


@pytest.fixture
def own_coco(drawn_coco, tmp_path) -> Path:
    """A copy of the data set that may be damaged."""
    return shutil.copytree(drawn_coco, tmp_path / "own")


@pytest.fixture
def backbone(tmp_path) -> Path:
    save_backbone(tmp_path / "backbone", DATAResNet(SMALL))
    return tmp_path / "backbone" / PTH_FILE


def rewrite(root: Path, split: str, change, kind: str = "instances") -> Path:
    path = root / "annotations" / f"{kind}_{split}.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))
    return path


# Data roots


@pytest.mark.parametrize("below", ["", "coco"])
def test_data_root_is_used(drawn_coco, backbone, tmp_path, below):
    root = shutil.copytree(drawn_coco, tmp_path / "data" / below)
    images = load(tmp_path / "data", f"MODEL.WEIGHTS={backbone}").images()
    assert set(images.names) == {path.name for path in (root / "train2017").iterdir()}


@pytest.mark.filterwarnings("ignore:.*lists categories of its own")
def test_categories_are_those_of_the_file(own_coco, tmp_path):
    for split in ("train2017", "val2017"):
        rewrite(own_coco, split, lambda it: it.update(annotations=[], categories=[{"id": 5, "name": "own"}]))
    config = load(own_coco)
    refused("has no object in", config, tmp_path / "out")
    with registered(config._placed):
        register_classes(config.cfg)
        metadata = MetadataCatalog.get("coco_2017_train")
    assert metadata.thing_classes == ["own"]
    assert (metadata.own_json_file, metadata.image_root) == (
        str(own_coco / "annotations" / "instances_train2017.json"),
        str(own_coco / "train2017"),
    )


def test_keypoints_keep_their_names(drawn_coco, tmp_path):
    root = shutil.copytree(drawn_coco, tmp_path / "data")
    for split in ("train2017", "val2017"):
        path = root / "annotations" / f"instances_{split}.json"
        path.rename(path.with_name(f"person_keypoints_{split}.json"))
        rewrite(root, split, lambda it: it.update(annotations=[]), kind="person_keypoints")
    before = MetadataCatalog.get("keypoints_coco_2017_train").keypoint_names
    names = ["DATASETS.TRAIN=('keypoints_coco_2017_train',)", "DATASETS.TEST=('keypoints_coco_2017_val',)"]
    config = load(root, *names)
    refused("has no object in", config, tmp_path / "out")
    with registered(config._placed):
        metadata = MetadataCatalog.get("keypoints_coco_2017_train")
    assert (metadata.keypoint_names, metadata.image_root) == (before, str(root / "train2017"))


def test_wrong_data_roots_are_refused(own_coco, tmp_path, drawn_voc):
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "absent")
    with pytest.raises(UserError, match="COCO layout"):
        load(drawn_voc)
    with pytest.raises(UserError, match=r"'coco_2017_train_panoptic_stuffonly'; .*DETECTRON2_DATASETS"):
        load(own_coco, name="Misc/semantic_R_50_FPN_1x.yaml")
    with pytest.raises(UserError, match="'coco_2014_val_100' is not a data set"):
        load(own_coco, "DATASETS.TRAIN=('coco_2014_val_100',)")
    (own_coco / "annotations" / "instances_val2017.json").unlink()
    refused(r"instances_val2017.json of the data set coco_2017_val is missing", load(own_coco), tmp_path / "out")
    shutil.rmtree(own_coco / "train2017")
    with pytest.raises(UserError, match=r"train2017 is missing, which the data set coco_2017_train needs"):
        load(own_coco)


# Labels


def refused(words: str, config: adapter.Detectron2Config, out: Path, **options) -> None:
    with pytest.raises(UserError, match=words) as caught:
        config.finetune(out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("name", ["mask_rcnn_fpn_coco", "retinanet_fpn_coco"])
def test_labels_beyond_the_class_count_are_refused(name, own_coco, backbone, tmp_path):
    def add_object(contents):
        contents["annotations"][0]["category_id"] = category_id("tvmonitor")

    path = rewrite(own_coco, "val2017", add_object)
    node = "RETINANET" if name.startswith("retinanet") else "ROI_HEADS"
    options = [f"MODEL.WEIGHTS={backbone}", f"MODEL.{node}.NUM_CLASSES=19"]
    own_id = category_id("tvmonitor")
    words = rf"class 19 \(category id {own_id} of {path}\), but .*{node}.NUM_CLASSES is 19; coco_2017_val needs 80"
    refused(words, load(own_coco, *options, name=name), tmp_path / "out")


@pytest.mark.parametrize(
    ("split", "change", "words"),
    [
        ("train2017", lambda it: it["annotations"][0].update(category_id=999), "instances_train2017.json: .*999"),
        (
            "train2017",
            lambda it: it.pop("categories"),
            r"_train2017.json cannot be .*\(KeyError: 'categories'",
        ),
        ("train2017", lambda it: it["images"][0].update(file_name="absent.jpg"), "train2017/absent.jpg .*is missing"),
        ("val2017", lambda it: it.update(annotations=[]), "coco_2017_val has no object in 4 images"),
        ("val2017", lambda it: it.update(images=[]), "coco_2017_val has no images"),
    ],
)
def test_damaged_annotations_are_refused(split, change, words, own_coco, backbone, tmp_path):
    rewrite(own_coco, split, change)
    refused(words, load(own_coco, f"MODEL.WEIGHTS={backbone}"), tmp_path / "out")


def test_files_that_number_their_classes_differently_are_refused(own_coco):
    def turn(contents):
        names = [each["name"] for each in contents["categories"]]
        for category, name in zip(contents["categories"], reversed(names), strict=True):
            category["name"] = name

    rewrite(own_coco, "val2017", turn)
    with pytest.raises(UserError, match=r"list different categories \(the same in another order"):
        load(own_coco)


def test_a_truncated_file_is_refused(own_coco, backbone, tmp_path):
    path = own_coco / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:500])
    refused(
        "instances_train2017.json cannot be read as COCO", load(own_coco, f"MODEL.WEIGHTS={backbone}"), tmp_path / "out"
    )


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_no_data_set_is_refused(split, drawn_coco, backbone, tmp_path):
    config = load(drawn_coco, f"MODEL.WEIGHTS={backbone}", f"DATASETS.{split}=()")
    refused("names no data set", config, tmp_path / "out")


def test_models_that_are_no_detectors_are_refused(drawn_coco, tmp_path):
    config = load(drawn_coco, "DATASETS.TRAIN=('coco_2017_train',)", name="COCO-Detection/rpn_R_50_FPN_1x")
    refused("META_ARCHITECTURE is ProposalNetwork.*train_net.py", config, tmp_path / "out")


# Training

BOXES = {"AP", "AP50", "AP75"}
MASKS = {"mask AP", "mask AP50", "mask AP75"}


@pytest.mark.parametrize(
    ("name", "figures"),
    [("mask_rcnn_fpn_coco", BOXES | MASKS), ("retinanet_fpn_coco", BOXES)],
)
def test_finetune_and_evaluate(name, figures, drawn_coco, backbone, tmp_path):
    out = tmp_path / "out"
    load(drawn_coco, name=name).write(SMALL, backbone, tmp_path / "winner.yaml")
    config = adapter.Detectron2Config(tmp_path / "winner.yaml", [], drawn_coco)
    found = config.finetune(out)
    assert set(found) == figures
    assert all(0 <= value <= 100 for value in found.values())
    trained = torch.load(out / "model_final.pth", weights_only=True)
    assert trained["iteration"] == 1
    moved = trained["model"]["backbone.bottom_up.layer4.0.conv2.weight"]
    moved = (moved - torch.load(backbone, weights_only=True)["layer4.0.conv2.weight"]).abs()
    assert 0 < moved.max() < 0.1, "training has to start from the backbone's weights"
    assert config.finetune(out, eval_only=True) == found


def test_a_detector_that_detects_nothing_has_no_precision(drawn_coco, backbone, tmp_path):
    nothing = ["SOLVER.MAX_ITER=1", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=1.0"]
    config = load(drawn_coco, f"MODEL.WEIGHTS={backbone}", *nothing)
    assert config.finetune(tmp_path / "out") == dict.fromkeys(BOXES | MASKS, 0.0)


def test_figures_are_those_of_the_evaluator(drawn_coco, backbone, tmp_path, monkeypatch):
    """A detector that gives the labels back has an AP of 100 in boxes and in masks."""
    from detectron2.data import DatasetMapper
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import BitMasks, Instances

    config = load(drawn_coco, f"MODEL.WEIGHTS={backbone}", "SOLVER.MAX_ITER=1", "INPUT.RANDOM_FLIP=none")
    val = (str(drawn_coco / "annotations" / "instances_val2017.json"), str(drawn_coco / "val2017"))
    records = {record["image_id"]: record for record in load_coco_json(*val, "coco_2017_val")}

    def oracle(self, batched_inputs, *_, **__):
        results = []
        for item in batched_inputs:
            record = records[item["image_id"]]
            labels = DatasetMapper(full_size(config.cfg, record), is_train=True)(record)["instances"]
            found = Instances(labels.image_size)
            found.pred_boxes, found.pred_classes = labels.gt_boxes, labels.gt_classes
            found.pred_masks = BitMasks.from_polygon_masks(labels.gt_masks, *labels.image_size).tensor
            found.scores = torch.ones(len(labels))
            results.append({"instances": found})
        return results

    monkeypatch.setattr(GeneralizedRCNN, "inference", oracle)
    assert config.finetune(tmp_path / "out") == pytest.approx(dict.fromkeys(BOXES | MASKS, 100.0), abs=2)


def full_size(config: CfgNode, record: dict) -> CfgNode:
    cfg = config.clone()
    cfg.INPUT.MIN_SIZE_TRAIN = (min(record["height"], record["width"]),)
    return cfg


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("Misc/semantic_R_50_FPN_1x.yaml", {"total_loss"}),  # its only one has no name of its own there
        (
            "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
            {"loss_sem_seg", "loss_mask", "loss_cls", "loss_rpn_loc"},
        ),
    ],
)
def test_written_configs_of_stuff_train_with_detectron2s_own_trainer(name, losses, drawn_stuff, backbone, tmp_path):
    own = ["DATASETS.TRAIN=('drawn_stuff',)", "DATASETS.TEST=('drawn_stuff',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES=2"]
    load(None, *own, name=name).write(SMALL, backbone, tmp_path / "winner.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "winner.yaml"))
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load()
    start = torch.load(backbone, weights_only=True)["layer4.0.conv2.weight"]
    learnt = trainer.model.backbone.bottom_up.layer4[0].conv2.weight
    assert torch.equal(learnt, start)
    trainer.train()
    assert losses <= set(trainer.storage.latest())
    assert 0 < (learnt - start).abs().max() < 0.1
    found = DefaultTrainer.test(cfg, trainer.model, SemSegEvaluator("drawn_stuff", output_dir=cfg.OUTPUT_DIR))
    assert 0 <= found["sem_seg"]["mIoU"] <= 100


def test_lazy_config_trains_as_with_detectron2s_own_tool(drawn_coco, backbone, tmp_path):
    for data_set in below(drawn_coco, load(None).cfg):
        data_set.register()
    cfg = lazy_with_data_resnet(model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"), SMALL, backbone)
    cfg.model.roi_heads.batch_size_per_image = 16
    cfg.model.proposal_generator.post_nms_topk = (50, 10)
    cfg.dataloader.train.mapper.augmentations = [L(ResizeShortestEdge)(short_edge_length=64)]
    cfg.dataloader.test.mapper.augmentations = [L(ResizeShortestEdge)(short_edge_length=64)]
    cfg.dataloader.train.update(total_batch_size=2, num_workers=0)
    cfg.dataloader.test.num_workers = 0
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), instantiate(cfg.optimizer))
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    DetectionCheckpointer(model, str(tmp_path), trainer=trainer).resume_or_load(cfg.train.init_checkpoint, resume=False)
    learnt = model.backbone.bottom_up.layer4[0].conv2.weight
    start = torch.load(backbone, weights_only=True)["layer4.0.conv2.weight"]
    assert torch.equal(learnt, start)
    trainer.train(0, 2)
    assert 0 < (learnt - start).abs().max() < 0.1
    found = inference_on_dataset(
        model.eval(), instantiate(cfg.dataloader.test), COCOEvaluator("coco_2017_val", ("bbox", "segm"))
    )
    assert set(found) == {"bbox", "segm"}


@pytest.fixture
def drawn_stuff(drawn_coco, tmp_path) -> None:
    """A data set ``drawn_stuff`` of objects with masks and of two kinds of stuff."""
    images, labels = drawn_coco / "train2017", tmp_path / "stuff"
    labels.mkdir()
    for number, path in enumerate(sorted(images.glob("*.jpg"))):
        width, height = Image.open(path).size
        pixels = np.full((height, width), number % 2, dtype=np.uint8)
        pixels[: height // 2] = 1 - number % 2
        Image.fromarray(pixels).save(labels / f"{path.stem}.png")
    objects = drawn_coco / "annotations" / "instances_train2017.json"
    DatasetCatalog.register(
        "drawn_stuff",
        lambda: merge_to_panoptic(
            load_coco_json(str(objects), str(images), "drawn_stuff"),
            load_sem_seg(str(labels), str(images), gt_ext="png", image_ext="jpg"),
        ),
    )
    MetadataCatalog.get("drawn_stuff").set(stuff_classes=["ground", "sky"], ignore_label=255, evaluator_type="sem_seg")


STOCK_SCRIPT = """
import sys
import data_plugin.backbones.detectron2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator

cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
stored = torch.load(cfg.MODEL.WEIGHTS.partition("?")[0])
assert torch.equal(trainer.model.backbone.bottom_up.layer4[0].conv2.weight, stored["layer4.0.conv2.weight"])
trainer.train()
results = DefaultTrainer.test(cfg, trainer.model, COCOEvaluator("coco_2017_val", output_dir=cfg.OUTPUT_DIR))
assert {"bbox", "segm"} <= set(results), results
cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR + "/model_final.pth"
found = DefaultPredictor(cfg)(np.zeros((60, 80, 3), dtype=np.uint8))
print("masks", tuple(found["instances"].pred_masks.shape))
"""


@pytest.mark.slow
def test_written_config_trains_in_a_script_that_knows_detectron2_alone(drawn_coco, backbone, tmp_path):
    load(drawn_coco).write(SMALL, backbone, tmp_path / "winner.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco").symlink_to(drawn_coco)
    done = subprocess.run(
        [sys.executable, "-c", STOCK_SCRIPT, str(tmp_path / "winner.yaml"), "OUTPUT_DIR", str(tmp_path)],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "masks" in done.stdout
