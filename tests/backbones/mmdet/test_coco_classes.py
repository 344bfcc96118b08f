"""Data in COCO's layout with categories of its own in MMDetection, from the config to a scored detector."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from samples import OBJECTS, draw_own_coco

pytest.importorskip("mmdet", reason="MMDetection is not installed")

import mmdet
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from processes import in_processes, run_script

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.backbones.mmdet.labels import require_classes, set_classes
from data_plugin.frameworks.registry import MMDET
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*lists categories of its own")

ARCH = Arch.parse("d1-1-1-1_w8-8-8-8-16")
BY_ID = ("vehicle", "walker", "hound")
TURNED = ("hound", "vehicle", "walker")
SMALL_HEADS = [
    "model.roi_head.bbox_head.conv_out_channels=16",
    "model.roi_head.bbox_head.fc_out_channels=16",
    "model.roi_head.mask_head.conv_out_channels=16",
]
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "custom_hooks.0.num_iters=1",
    "train_dataloader.num_workers=0",
    "train_dataloader.dataset.pipeline.2.scales=[(96,64)]",
    "val_dataloader.num_workers=0",
    "val_dataloader.dataset.pipeline.1.scale=(96,64)",
    "model.train_cfg.rpn_proposal.max_per_img=30",
    "model.train_cfg.rcnn.sampler.num=16",
    "model.test_cfg.rpn.max_per_img=20",
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return draw_own_coco(tmp_path_factory.mktemp("coco"))


def load(
    config: str | Path, root: Path | None = None, *options: str, classes: Sequence[str] | None = None
) -> MMDetConfig:
    return MMDetConfig(MMDET.configs.find(str(config)), options, root, classes)


def written(folder: Path, config: MMDetConfig) -> Path:
    save_backbone(folder, DATAResNet(ARCH))
    config.write(ARCH, folder / PTH_FILE, folder / "winner.py")
    return folder / "winner.py"


def labels(config: MMDetConfig, loader: str) -> list[list[int]]:
    """What the framework's own data set labels the objects of every image with."""
    entry = {**config.cfg[loader].dataset, "pipeline": [], "filter_cfg": None}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return [[each["bbox_label"] for each in image["instances"]] for image in DATASETS.build(entry)]


@pytest.mark.parametrize("classes", [BY_ID, TURNED, ("walker", "hound")])
@pytest.mark.filterwarnings("ignore:objects of the categories")
def test_a_written_config_labels_every_object_by_its_class(coco: Path, tmp_path: Path, classes) -> None:
    again = load(written(tmp_path, load("mask_rcnn_fpn_coco", coco, classes=None if classes == BY_ID else classes)))
    heads = again.cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == len(classes)
    assert again.cfg.val_evaluator.type == again.cfg.test_evaluator.type == "OwnCocoMetric"
    expected = [classes.index(name) for name in OBJECTS if name in classes]
    for loader, count in (("train_dataloader", 4), ("val_dataloader", 2), ("test_dataloader", 2)):
        assert tuple(again.cfg[loader].dataset.metainfo.classes) == classes
        assert labels(again, loader) == [expected] * count


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("retinanet_fpn_coco", lambda model: [model.bbox_head.num_classes]),
        (
            "cascade-mask-rcnn_r50_fpn_1x_coco",
            lambda model: [head.num_classes for head in (*model.roi_head.bbox_head, model.roi_head.mask_head)],
        ),
        (
            "point-rend_r50-caffe_fpn_ms-1x_coco",
            lambda model: [model.roi_head[head].num_classes for head in ("bbox_head", "mask_head", "point_head")],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.* left out")
def test_every_kind_of_head_follows(coco: Path, name: str, counts) -> None:
    assert set(counts(load(name, coco).cfg.model)) == {3}


def test_heads_for_objects_and_stuff_follow_in_their_objects() -> None:
    loss = {"class_weight": [1.0] * 5 + [0.1]}
    model = ConfigDict(panoptic_head={"num_things_classes": 3, "num_stuff_classes": 2, "loss_cls": loss})
    set_classes(model, 2)
    require_classes(model, 2, "file")
    assert (model.panoptic_head.num_stuff_classes, model.panoptic_head.loss_cls.class_weight) == (2, [1.0] * 4 + [0.1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, coco: Path) -> Path:
    """A config whose classes are in another order than the file's ids, trained."""
    folder = tmp_path_factory.mktemp("trained")
    path = written(folder, load("mask_rcnn_fpn_coco", coco, *SMALL_HEADS, classes=TURNED))
    load(path, None, *TINY).finetune(folder / "out")
    return path


def test_the_checkpoint_has_the_classes(trained: Path) -> None:
    state = torch.load(trained.parent / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert state["state_dict"]["roi_head.bbox_head.fc_cls.weight"].shape[0] == len(TURNED) + 1
    assert tuple(state["meta"]["dataset_meta"]["classes"]) == TURNED


def test_a_detector_that_misses_one_class_scores_nothing_of_it_by_name(trained: Path, monkeypatch) -> None:
    from mmdet.models.detectors import MaskRCNN

    def predict(self, inputs, samples, rescale=True):
        for sample in samples:
            truth = sample.gt_instances[sample.gt_instances.labels != TURNED.index("vehicle")]
            boxes = truth.bboxes.tensor if hasattr(truth.bboxes, "tensor") else truth.bboxes
            masks = torch.from_numpy(truth.masks.to_ndarray()).bool()
            scores = torch.ones(len(boxes))
            sample.pred_instances = type(truth)(bboxes=boxes, labels=truth.labels, masks=masks, scores=scores)
        return samples

    monkeypatch.setattr(MaskRCNN, "predict", predict)
    out = trained.parent / "out"
    before = set(out.rglob("*.log"))
    found = load(trained, None, *TINY).finetune(out, eval_only=True)
    assert (found["AP"], found["mask AP"]) == pytest.approx((200 / 3, 200 / 3), abs=0.1)
    (log,) = set(out.rglob("*.log")) - before
    rows = re.findall(r"^\| (\w+) +\| ([\d.]+) ", log.read_text(), re.M)
    assert rows == [("hound", "1.0"), ("vehicle", "0.0"), ("walker", "1.0")] * 2  # boxes, masks


def rewrite(root: Path, split: str, change) -> None:
    path = root / "annotations" / f"instances_{split}.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def test_files_of_different_categories_are_refused(tmp_path: Path) -> None:
    root = draw_own_coco(tmp_path / "coco")
    rewrite(root, "val2017", lambda it: it["categories"].pop())
    with pytest.raises(UserError, match=r"instances_train2017.json and .*instances_val2017.json list different"):
        load("faster_rcnn_fpn_coco", root)


def test_a_written_config_refuses_data_of_other_categories(coco: Path, tmp_path: Path) -> None:
    path = written(tmp_path, load("faster_rcnn_fpn_coco", coco))
    root = draw_own_coco(tmp_path / "coco")
    for split in ("train2017", "val2017"):
        rewrite(root, split, lambda it: it["categories"][0].update(name="runner"))
    with pytest.raises(UserError, match=r"lists no category 'walker', .*; expected .* \(vehicle, runner, hound\)"):
        load(path, root)


def test_classes_are_for_coco_and_voc_alone(coco: Path) -> None:
    with pytest.raises(UserError, match=r"emu are given, but .* VOCDataset and CocoDataset alone, .* has LVIS"):
        load("mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1", classes=["emu"])


@pytest.mark.slow
def test_written_config_trains_with_mmdets_own_launcher(coco: Path, tmp_path: Path) -> None:
    path = written(tmp_path, load("mask_rcnn_fpn_coco", coco, *SMALL_HEADS))
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = [*TINY, *(f"{each}_dataloader.persistent_workers=False" for each in ("train", "val"))]
    options.append("model.test_cfg.rcnn.score_thr=0.0")
    command = [script, path, "--work-dir", tmp_path / "out", "--cfg-options", *options]
    said = in_processes(tmp_path, 1, run_script, *command)
    assert all(f"| {name} " in said for name in BY_ID)
    state = torch.load(tmp_path / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert state["state_dict"]["roi_head.bbox_head.fc_cls.weight"].shape[0] == 4
