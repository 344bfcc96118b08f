"""The COCO and FPN recipes for MMDetection, from the config to trained detectors, on a handful of drawn images."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

pytest.importorskip("mmdet", reason="MMDetection is not installed")

import mmdet
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets import CocoDataset
from mmengine.runner import Runner
from processes import in_processes
from torch import distributed as dist

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.batch import ImageBatches
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.tools.export import main as export

ARCH = Arch.parse("d1-1-1-1_w8-8-12-16-24")
RECIPES = ("mask_rcnn_fpn_coco", "faster_rcnn_fpn_coco", "retinanet_fpn_coco")
CATEGORIES = [{"id": 2 * label + 1, "name": name} for label, name in enumerate(CocoDataset.METAINFO["classes"])]
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "custom_hooks.0.num_iters=2",
    "default_hooks.logger.interval=1",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "val_dataloader.dataset.pipeline.1.scale=(200,64)",
]
SMALL_HEADS = [
    "model.roi_head.bbox_head.conv_out_channels=16",
    "model.roi_head.bbox_head.fc_out_channels=16",
    "model.roi_head.mask_head.conv_out_channels=16",
]
TWO_STAGE = [
    "model.train_cfg.rpn_proposal.max_per_img=30",
    "model.train_cfg.rcnn.sampler.num=16",
    "model.test_cfg.rpn.max_per_img=20",
    "model.test_cfg.rcnn.score_thr=0.0",
]


def draw_coco(root: Path, train: int, val: int) -> None:
    """Photographs of rectangles with their boxes and polygons, in COCO's layout and numbering."""
    rng = np.random.default_rng(0)
    for split, count in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
            for category in (CATEGORIES[2], CATEGORIES[16]):
                x, y, width, height = (int(value) for value in rng.integers((0, 0, 20, 20), (60, 30, 36, 34)))
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                ImageDraw.Draw(picture).polygon(corners, fill="red" if category["name"] == "car" else "blue")
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category["id"],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "segmentation": [corners],
                        "iscrowd": 0,
                    }
                )
            name = f"{number:012}.jpg"
            picture.save(root / split / name)
            images.append({"id": number, "file_name": name, "width": 96, "height": 64})
        contents = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(contents))


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    draw_coco(root, train=4, val=2)
    return root


@pytest.fixture(scope="module")
def winner(tmp_path_factory, coco: Path) -> dict[str, Path]:
    """What a search writes, per recipe."""
    folder = tmp_path_factory.mktemp("winner")
    save_backbone(folder, DATAResNet(ARCH))
    for name in RECIPES:
        small = [option for option in SMALL_HEADS if name == "mask_rcnn_fpn_coco" or "mask" not in option]
        config = MMDetConfig(MMDET.configs.find(name), [] if "retinanet" in name else small, coco)
        config.write(ARCH, folder / PTH_FILE, folder / f"{name}.py")
    return {name: folder / f"{name}.py" for name in RECIPES}


def tiny(path: Path, *options: str) -> MMDetConfig:
    scales = "train_dataloader.dataset.pipeline.2.scales=[(200,64)]"
    own = ["model.test_cfg.score_thr=0.0"] if "retinanet" in path.name else TWO_STAGE
    return MMDetConfig(MMDET.configs.find(str(path)), [*TINY, scales, *own, *options], None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, winner: dict[str, Path]) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("runs") / "mask"
    return out, dict(tiny(winner["mask_rcnn_fpn_coco"]).finetune(out))


# What the recipes say


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_follow_the_paper(coco: Path, name: str) -> None:
    config = MMDetConfig(MMDET.configs.find(name), [], coco)
    assert config.input_format == InputFormat.imagenet()
    assert config.taps == (("C3", "C4", "C5") if "retinanet" in name else ("C2", "C3", "C4", "C5"))
    schedule = {each.type: each for each in config.cfg.param_scheduler}
    assert config.cfg.train_cfg.max_iters == schedule["MultiStepLR"].end == 90000
    assert schedule["MultiStepLR"].milestones == [60000, 80000]
    assert config.cfg.optim_wrapper.optimizer.lr == (0.01 if "retinanet" in name else 0.02)
    steps = {step.type: step for step in config.cfg.train_dataloader.dataset.pipeline}
    assert steps["RandomChoiceResize"].scales == [(1333, side) for side in (640, 672, 704, 736, 768, 800)]
    model = config.cfg.model
    assert model.backbone.frozen_stages == -1
    assert not model.backbone.norm_eval
    synced = [model.backbone, model.neck]
    if "roi_head" in model:
        synced.append(model.roi_head.bbox_head)
        assert model.roi_head.bbox_head.type == "Shared4Conv1FCBBoxHead"
    if name == "mask_rcnn_fpn_coco":
        synced.append(model.roi_head.mask_head)
    assert [part.norm_cfg.type for part in synced] == ["SyncBN"] * len(synced)
    assert config.cfg.custom_hooks[0].type == "PreciseBNHook"


def test_fpn_on_voc_shares_data_and_schedule_with_c4(tmp_path: Path) -> None:
    draw_voc(tmp_path, train=2, test=1, size=(96, 64))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRAINING DATA")
        c4, fpn = (MMDetConfig(MMDET.configs.find(f"faster_rcnn_{kind}_voc"), [], tmp_path) for kind in ("c4", "fpn"))
    assert fpn.taps == ("C2", "C3", "C4", "C5")
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "param_scheduler", "optim_wrapper", "train_cfg"):
        assert fpn.cfg[key] == c4.cfg[key], key


# What comes out trains as it is


def test_masks_and_boxes_are_scored(trained, winner: dict[str, Path]) -> None:
    out, metrics = trained
    assert list(metrics) == ["AP", "AP50", "AP75", "mask AP", "mask AP50", "mask AP75"]
    again = tiny(winner["mask_rcnn_fpn_coco"]).finetune(out, eval_only=True)
    assert again == pytest.approx(metrics, nan_ok=True)


def test_nothing_detected_scores_zero(trained, winner: dict[str, Path]) -> None:
    config = tiny(winner["mask_rcnn_fpn_coco"], "model.test_cfg.rcnn.score_thr=2.0")
    assert set(config.finetune(trained[0], eval_only=True).values()) == {0.0}


@pytest.mark.parametrize("name", ["faster_rcnn_fpn_coco", "retinanet_fpn_coco"])
def test_box_detectors_train(winner: dict[str, Path], tmp_path: Path, name: str) -> None:
    metrics = tiny(winner[name]).finetune(tmp_path / "out")
    assert list(metrics) == ["AP", "AP50", "AP75"]
    state = torch.load(tmp_path / "out" / "iter_2.pth", weights_only=False)["state_dict"]  # written by this test
    before = DATAResNet.from_pretrained(winner[name].parent).state_dict()
    assert any(not torch.equal(state[f"backbone.{key}"], value) for key, value in before.items())
    assert state["neck.lateral_convs.0.conv.weight"].shape[1] == ARCH.out_channels[1 if "retinanet" in name else 0]


def test_perfect_detections_score_a_hundred(trained, winner: dict[str, Path], monkeypatch) -> None:
    from mmdet.models.detectors import MaskRCNN
    from mmengine.structures import InstanceData

    def predict(self, inputs, samples, rescale=True):
        for sample in samples:
            truth = sample.gt_instances
            sample.pred_instances = InstanceData(
                bboxes=getattr(truth.bboxes, "tensor", truth.bboxes),
                labels=truth.labels,
                scores=torch.ones(len(truth.labels)),
                masks=truth.masks.to_tensor(torch.bool, "cpu"),
            )
        return samples

    monkeypatch.setattr(MaskRCNN, "predict", predict)
    found = tiny(winner["mask_rcnn_fpn_coco"]).finetune(trained[0], eval_only=True)
    assert {name: value for name, value in found.items() if "75" not in name} == pytest.approx(
        {"AP": 100, "AP50": 100, "mask AP": 100, "mask AP50": 100}, abs=5
    )


def test_written_config_serves_init_detector(trained, winner: dict[str, Path], coco: Path) -> None:
    detector = init_detector(str(winner["mask_rcnn_fpn_coco"]), str(trained[0] / "iter_2.pth"), device="cpu")
    detector.cfg.test_dataloader.dataset.pipeline[1].scale = (200, 64)
    found = inference_detector(detector, str(coco / "val2017" / "000000000000.jpg"))
    assert found.pred_instances.bboxes.shape[1:] == (4,)
    assert found.pred_instances.masks.shape[1:] == (64, 96)


@pytest.mark.slow
def test_written_config_trains_with_mmdets_own_launcher(winner: dict[str, Path], tmp_path: Path) -> None:
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = [*TINY, *TWO_STAGE, "train_dataloader.dataset.pipeline.2.scales=[(200,64)]"]
    options += ["train_dataloader.persistent_workers=False", "val_dataloader.persistent_workers=False"]
    command = [sys.executable, str(script), str(winner["mask_rcnn_fpn_coco"]), "--work-dir", str(tmp_path)]
    ran = subprocess.run([*command, "--cfg-options", *options], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "coco/segm_mAP" in ran.stdout + ran.stderr
    state = torch.load(tmp_path / "iter_2.pth", weights_only=False)["state_dict"]  # written by this test
    before = DATAResNet.from_pretrained(winner["mask_rcnn_fpn_coco"].parent).state_dict()
    for name, value in before.items():
        if value.ndim == 4:  # two warm-up steps are small: the weights are near those that the config names
            torch.testing.assert_close(state[f"backbone.{name}"], value, atol=0.02, rtol=0)


def train_and_sum(config: Path, out: Path, options: list[str]) -> None:
    sums, whole = [], Runner.train

    def train(self):
        model = whole(self)
        assert dist.get_world_size() == 2
        assert type(self.model).__name__ == "MMDistributedDataParallel"
        sums.append(sum(float(each.detach().double().sum()) for each in self.model.parameters()))
        return model

    Runner.train = train
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        MMDetConfig(config, options).finetune(out)
    print(*(each.message for each in warned))
    (out / f"sum{dist.get_rank()}").write_text(repr(sums[0]))


@pytest.mark.slow
def test_two_processes_on_the_cpu_hold_the_same_weights(winner: dict[str, Path], tmp_path: Path) -> None:
    options = [*TINY, "train_dataloader.dataset.pipeline.2.scales=[(200,64)]", *TWO_STAGE]
    said = in_processes(tmp_path, 2, train_and_sum, winner["faster_rcnn_fpn_coco"], tmp_path / "out", options)
    first, second = ((tmp_path / "out" / f"sum{rank}").read_text() for rank in range(2))
    assert first == second
    assert "each process normalises" in said


def test_fine_tuned_backbone_is_exported(trained, tmp_path: Path, capsys) -> None:
    assert export(["--checkpoint", str(trained[0] / "iter_2.pth"), "--out", str(tmp_path / "out")]) == 0
    assert str(ARCH) in capsys.readouterr().out
    state = torch.load(trained[0] / "iter_2.pth", weights_only=False)["state_dict"]  # written by this test
    network = DATAResNet.from_pretrained(tmp_path / "out")
    assert network.arch == ARCH
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[f"backbone.{name}"]), name


# Bad input


@pytest.fixture
def damaged(coco: Path, tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    shutil.copytree(coco, root)
    return root


def rewrite(root: Path, split: str, change) -> None:
    path = root / "annotations" / f"instances_{split}.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def refused(winner: dict[str, Path], root: Path, out: Path, message: str, *options: str) -> None:
    config = MMDetConfig(MMDET.configs.find(str(winner["mask_rcnn_fpn_coco"])), [*TINY, *options], root)
    with pytest.raises(UserError, match=message) as caught:
        config.finetune(out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_labels_outside_the_models_classes_are_refused(winner, coco: Path, tmp_path: Path) -> None:
    refused(
        winner,
        coco,
        tmp_path / "out",
        r"train2017.json has labels 0 to 79, but model.roi_head.bbox_head.num_classes is 20; expected 80",
        "model.roi_head.bbox_head.num_classes=20",
    )


def test_unlisted_categories_and_foreign_classes_are_refused(winner, damaged: Path, tmp_path: Path) -> None:
    rewrite(damaged, "val2017", lambda contents: contents["annotations"][0].update(category_id=78))
    refused(winner, damaged, tmp_path / "out", r"instances_val2017.json has annotations of category 78, but")
    of_another_kind = "train_dataloader.dataset.type=CityscapesDataset"
    message = r"lists person, bicycle, car, .* and not the data set's rider; write"
    refused(winner, damaged, tmp_path / "out", message, of_another_kind)
    (damaged / "annotations" / "instances_train2017.json").write_text("{")
    refused(winner, damaged, tmp_path / "out", r"instances_train2017.json cannot be read as COCO annotations")


def test_data_roots_are_checked(winner, damaged: Path, tmp_path: Path) -> None:
    config = MMDetConfig(MMDET.configs.find("mask_rcnn_fpn_coco"), [], damaged)
    assert config.cfg.val_evaluator.ann_file == f"{damaged}/annotations/instances_val2017.json"
    assert config.cfg.test_evaluator.ann_file == config.cfg.val_evaluator.ann_file
    with pytest.raises(UserError, match=r"nowhere is not a folder; give --data-root"):
        MMDetConfig(MMDET.configs.find("mask_rcnn_fpn_coco"), [], tmp_path / "nowhere")
    shutil.rmtree(damaged / "val2017")
    with pytest.raises(UserError, match=r"has no val2017/; expected .*instances_val2017.json and val2017/ in it"):
        MMDetConfig(MMDET.configs.find("mask_rcnn_fpn_coco"), [], damaged)


def test_evaluators_that_score_neither_boxes_nor_masks_are_refused(winner, coco: Path, tmp_path: Path) -> None:
    refused(winner, coco, tmp_path / "out", "metric 'bbox' or 'segm'", "val_evaluator.metric=proposal")


def test_search_images_of_coco(coco: Path) -> None:
    config = MMDetConfig(
        MMDET.configs.find("retinanet_fpn_coco"),
        ["test_dataloader.dataset.pipeline.1.scale=(200,64)", "test_dataloader.num_workers=0"],
        coco,
    )
    found = list(ImageBatches(config.images(), [[0, 1], [2, 3]]))
    assert [batch.images.shape for batch in found] == [(2, 3, 64, 96)] * 2
    assert [name for batch in found for name in batch.names] == [f"{number:012}.jpg" for number in range(4)]


def test_annotations_that_cannot_be_read_are_named(damaged: Path) -> None:
    options = ["test_dataloader.num_workers=0"]
    config = MMDET.open("retinanet_fpn_coco", options, damaged)
    of_another_kind = MMDET.open(
        "retinanet_fpn_coco", [*options, "train_dataloader.dataset.type=CityscapesDataset"], damaged
    )
    path = damaged / "annotations" / "instances_train2017.json"
    path.write_text("{")
    with pytest.raises(UserError, match=rf"^{path} cannot be read as COCO annotations"):
        config.images()
    with pytest.raises(UserError, match=rf"^MMDetection cannot use .* \(ValueError: {path}: "):
        of_another_kind.images()
