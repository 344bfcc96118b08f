"""Data in VOC's layout with classes of its own in MMDetection, from the config to a scored detector."""

import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from samples import drawn_names, with_classes

pytest.importorskip("mmdet", reason="MMDetection is not installed")

import mmdet
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from processes import in_processes, run_script

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.backbones.mmdet.labels import set_classes
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT", "ignore:.*classes of their own")

ARCH = Arch.parse("d1-1-1-1_w8-8-8-8-16")
OWN = ("raccoon", "kangaroo")
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "custom_hooks.0.num_iters=1",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "train_dataloader.dataset.datasets.0.pipeline.3.scales=[(200,64)]",
    "val_dataloader.dataset.pipeline.1.scale=(200,64)",
    "model.train_cfg.rpn_proposal.max_per_img=50",
    "model.train_cfg.rcnn.sampler.num=16",
    "model.test_cfg.rpn.max_per_img=50",
]


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    draw_voc(root / "drawn", train=5, test=3, size=(96, 64))
    return with_classes(root / "drawn", root / "own", OWN)


@pytest.fixture
def own_voc(voc: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(voc, tmp_path / "voc")


def load(
    config: str | Path, root: Path | None = None, *options: str, classes: Sequence[str] | None = None
) -> MMDetConfig:
    return MMDetConfig(MMDET.configs.find(str(config)), options, root, classes)


def written(folder: Path, config: MMDetConfig) -> Path:
    save_backbone(folder, DATAResNet(ARCH))
    config.write(ARCH, folder / PTH_FILE, folder / "winner.py")
    return folder / "winner.py"


def labels(config: MMDetConfig, loader: str) -> list[list[str]]:
    """What the framework's own data set labels every image with, by the names that the data set has for it."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = DATASETS.build(config.cfg[loader].dataset)
    return [[data.metainfo["classes"][each["bbox_label"]] for each in image["instances"]] for image in data]


@pytest.mark.parametrize("config", ["faster_rcnn_c4_voc", "faster_rcnn_fpn_voc"])
def test_a_written_config_holds_the_classes(voc: Path, tmp_path: Path, config: str) -> None:
    again = load(written(tmp_path, load(config, voc)))
    assert again.cfg.model.roi_head.bbox_head.num_classes == 2
    assert "num_classes" not in again.cfg.model.rpn_head
    (train,) = again.cfg.train_dataloader.dataset.datasets
    for dataset in (train, again.cfg.val_dataloader.dataset, again.cfg.test_dataloader.dataset):
        assert dataset.metainfo.classes == ("kangaroo", "raccoon")
        dataset.pipeline = []
        dataset.filter_cfg = None
    assert labels(again, "train_dataloader") == drawn_names(voc, "trainval")
    assert labels(again, "val_dataloader") == labels(again, "test_dataloader") == drawn_names(voc, "test")


def test_every_head_for_objects_follows(voc: Path) -> None:
    heads = [{"num_classes": 20}, {"num_classes": 20}]
    model = ConfigDict(
        rpn_head={"num_classes": 1},
        roi_head={"bbox_head": heads, "mask_head": {"num_classes": 20}, "semantic_head": {"num_classes": 183}},
    )
    set_classes(model, 2)
    assert [head.num_classes for head in model.roi_head.bbox_head] == [2, 2]
    assert (model.roi_head.mask_head.num_classes, model.roi_head.semantic_head.num_classes) == (2, 183)
    assert model.rpn_head.num_classes == 1


def test_vocs_twenty_stay(drawn_voc: Path) -> None:
    config = load("faster_rcnn_c4_voc", drawn_voc).cfg
    assert config.model.roi_head.bbox_head.num_classes == 20
    assert config.val_dataloader.dataset.type == "VOCDataset"
    assert "metainfo" not in config.val_dataloader.dataset


def test_named_classes_keep_their_order_in_the_config_and_after_it(voc: Path, tmp_path: Path) -> None:
    again = load(written(tmp_path, load("faster_rcnn_c4_voc", voc, classes=OWN)), voc)
    assert again.cfg.val_dataloader.dataset.metainfo.classes == OWN
    turned = load(tmp_path / "winner.py", voc, classes=("kangaroo", "raccoon"))
    assert turned.cfg.val_dataloader.dataset.metainfo.classes == ("kangaroo", "raccoon")


def test_some_classes_leave_the_others_objects_out(voc: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not among raccoon are left out: kangaroo"):
        config = load("faster_rcnn_c4_voc", voc, classes=["raccoon"])
    config.cfg.val_dataloader.dataset.pipeline = []
    expected = [[name for name in names if name == "raccoon"] for names in drawn_names(voc, "test")]
    assert labels(config, "val_dataloader") == expected
    with pytest.warns(UserWarning, match="left out"):
        again = load(written(tmp_path, config), voc)
    assert again.cfg.model.roi_head.bbox_head.num_classes == 1


@pytest.fixture(scope="module")
def many() -> list[str]:
    """More classes than VOC has."""
    return [*OWN, *(f"animal {number}" for number in range(20))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, voc: Path, many: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    path = written(folder, load("faster_rcnn_c4_voc", voc, classes=many))
    load(path, None, *TINY).finetune(folder / "out")
    return path


def test_training_begins_from_the_backbone_with_a_head_for_the_classes(trained: Path, many: list[str]) -> None:
    state = torch.load(trained.parent / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert state["state_dict"]["roi_head.bbox_head.fc_cls.weight"].shape == (len(many) + 1, ARCH.out_channels[3])
    assert list(state["meta"]["dataset_meta"]["classes"]) == many


def test_perfect_detections_score_a_hundred_by_the_classes_names(trained: Path, voc: Path, monkeypatch) -> None:
    from mmdet.models.detectors import FasterRCNN

    def predict(self, inputs, samples, rescale=True):
        for sample in samples:
            truth = sample.gt_instances
            boxes = truth.bboxes.tensor if hasattr(truth.bboxes, "tensor") else truth.bboxes
            sample.pred_instances = type(truth)(bboxes=boxes, labels=truth.labels, scores=torch.ones(len(boxes)))
        return samples

    monkeypatch.setattr(FasterRCNN, "predict", predict)
    out = trained.parent / "out"
    before = set(out.rglob("*.log"))
    found = load(trained, None, *TINY).finetune(out, eval_only=True)
    assert found == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    (log,) = set(out.rglob("*.log")) - before
    rows = re.findall(r"^\| (\w[\w ]*?) +\| (\d+) ", log.read_text(), re.M)[: len(OWN)]
    drawn = [name for names in drawn_names(voc, "test") for name in names]
    assert rows == [(name, str(drawn.count(name))) for name in OWN]


def test_fine_tuning_reads_the_classes_of_another_data_root(voc: Path, own_voc: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_voc / "VOC2007" / "Annotations")
    with pytest.warns(UserWarning, match="keeps VOC's twenty"):
        path = written(tmp_path, load("faster_rcnn_c4_voc", own_voc))
    assert load(path).cfg.model.roi_head.bbox_head.num_classes == 20
    load(path, voc, *TINY).finetune(tmp_path / "out")
    state = torch.load(tmp_path / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert state["meta"]["dataset_meta"]["classes"] == ("kangaroo", "raccoon")


def refused(config: MMDetConfig, out: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config.finetune(out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_images_without_any_object_are_refused(own_voc: Path, tmp_path: Path) -> None:
    for name in (own_voc / "VOC2007/ImageSets/Main/trainval.txt").read_text().split():
        (own_voc / "VOC2007" / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    config = load("faster_rcnn_c4_voc", own_voc, *TINY)
    refused(config, tmp_path / "out", r"no image of .*trainval.txt has an object of the classes ")


def test_data_sets_of_a_config_that_name_different_classes_are_refused(voc: Path, tmp_path: Path) -> None:
    path = written(tmp_path, load("faster_rcnn_c4_voc", voc))
    with pytest.raises(UserError, match="kangaroo, raccoon in its train_dataloader and raccoon, kangaroo in its val"):
        load(path, voc, "val_dataloader.dataset.metainfo.classes=(raccoon,kangaroo)")


@pytest.mark.slow
def test_written_config_trains_with_mmdets_own_launcher(voc: Path, tmp_path: Path) -> None:
    path = written(tmp_path, load("faster_rcnn_c4_voc", voc))
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = [*TINY, *(f"{each}_dataloader.persistent_workers=False" for each in ("train", "val"))]
    command = [script, path, "--work-dir", tmp_path / "out", "--cfg-options", *options]
    said = in_processes(tmp_path, 1, run_script, *command)
    assert "| kangaroo " in said
    assert "aeroplane" not in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.load(tmp_path / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert state["state_dict"]["roi_head.bbox_head.fc_cls.weight"].shape[0] == 3
