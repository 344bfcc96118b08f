"""The recipes and detectron2's own configs under the adapter: what is built, what is read, what is refused."""

import json

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet as PlainDATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.frameworks.registry import DETECTRON2, find_framework
from data_plugin.images.input_format import InputFormat
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:DATAResNet takes the place")

SMALL = Arch.parse("d1-2-1-2_w8-16-16-24-32")
QUICK = [
    f"MODEL.DATA_RESNET.ARCH={SMALL}",
    "MODEL.DEVICE=cpu",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=50",
    "MODEL.RPN.POST_NMS_TOPK_TEST=20",
]
RECIPES = [
    "faster_rcnn_c4_voc",
    "faster_rcnn_fpn_voc",
    "faster_rcnn_fpn_coco",
    "mask_rcnn_fpn_coco",
    "mask_rcnn_fpn_cityscapes",
    "retinanet_fpn_coco",
]
FPN_RECIPES = RECIPES[1:]


def opened(name: str, *options: str) -> adapter.Detectron2Config:
    return adapter.Detectron2Config(DETECTRON2.configs.find(name), options)


def load(name: str, *options: str) -> CfgNode:
    return opened(name, *QUICK, *options).cfg


def learn(model: torch.nn.Module, inputs: list[dict]) -> dict[str, float]:
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    return {name: value.item() for name, value in losses.items()}


def bottom_up(model: torch.nn.Module) -> torch.nn.Module:
    return getattr(model.backbone, "bottom_up", model.backbone)


# The recipes


@pytest.mark.parametrize("name", FPN_RECIPES)
def test_recipe_trains_another_architecture(detector_inputs, name):
    cfg = load(name)
    model = build_model(cfg)
    losses = learn(model, detector_inputs())
    assert ("loss_mask" in losses) == name.startswith("mask")
    assert isinstance(bottom_up(model), adapter.DATAResNet)
    assert bottom_up(model).arch == SMALL
    assert bottom_up(model).conv1.weight.grad.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in model.parameters()), "a recipe freezes nothing"


@pytest.mark.parametrize("name", FPN_RECIPES)
def test_pyramid_and_heads_have_synchronised_batch_norm(name):
    model = build_model(load(name))
    assert not [module for module in model.modules() if isinstance(module, (torch.nn.BatchNorm2d, FrozenBatchNorm2d))]
    pyramid = [module for key, module in model.backbone.named_modules() if key.startswith(("fpn_", "top_block"))]
    counts = {
        kind: sum(isinstance(each, kind) for each in pyramid) for kind in (torch.nn.Conv2d, torch.nn.SyncBatchNorm)
    }
    extra = 2 if name.startswith("retinanet") else 0  # P6 and P7, which detectron2 gives no norm
    assert counts[torch.nn.SyncBatchNorm] == counts[torch.nn.Conv2d] - extra > 0
    if name.startswith("retinanet"):
        return  # one head for all levels, without a norm
    box_head = model.roi_heads.box_head
    assert [type(layer.norm) for layer in box_head.conv_norm_relus] == 4 * [torch.nn.SyncBatchNorm]
    assert len(box_head.fcs) == 1
    if name.startswith("mask"):
        mask_norms = [layer.norm for layer in model.roi_heads.mask_head.conv_norm_relus]
        assert [type(norm) for norm in mask_norms] == 4 * [torch.nn.SyncBatchNorm]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_share_what_the_papers_fix(name):
    config = opened(name)
    cfg = config.cfg
    assert config.input_format == InputFormat.imagenet()
    assert Arch.parse(cfg.MODEL.DATA_RESNET.ARCH) == Arch.resnet50()
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM, cfg.TEST.PRECISE_BN.ENABLED) == (0, "SyncBN", True)
    assert not cfg.MODEL.WEIGHTS
    assert cfg.SEED == 0


@pytest.mark.parametrize(
    ("name", "stock", "changed"),
    [
        (
            "mask_rcnn_fpn_coco",
            "Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml",
            {"SOLVER.MAX_ITER", "SOLVER.STEPS"},
        ),
        (
            "mask_rcnn_fpn_cityscapes",
            "Cityscapes/mask_rcnn_R_50_FPN.yaml",
            {"MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_MASK_HEAD.NORM", "TEST.PRECISE_BN.ENABLED"}
            | {f"MODEL.ROI_BOX_HEAD.{key}" for key in ("NUM_CONV", "NUM_FC", "NORM")},
        ),
        (
            "retinanet_fpn_coco",
            "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
            {"MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "TEST.PRECISE_BN.ENABLED"},
        ),
        (
            "faster_rcnn_fpn_voc",
            "PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml",
            {"MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_MASK_HEAD.NORM", "TEST.PRECISE_BN.ENABLED"}
            | {f"MODEL.ROI_BOX_HEAD.{key}" for key in ("NUM_CONV", "NUM_FC", "NORM")}
            | {"SOLVER.MAX_ITER", "SOLVER.STEPS"},
        ),
    ],
)
def test_recipe_differs_from_detectron2s_own_where_it_says(name, stock, changed):
    ours = _flat(opened(name).cfg)
    theirs = _flat(adapter.with_data_resnet(model_zoo.get_config(stock)))
    everywhere = {"MODEL.BACKBONE.FREEZE_AT", "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "SEED"}
    assert {key for key in ours if ours[key] != theirs[key]} == changed | everywhere


def _flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in node.items():
        # YAML has lists alone, the defaults have tuples too.
        plain = {} if isinstance(value, CfgNode) else {f"{prefix}{key}": json.loads(json.dumps(value))}
        flat.update(plain or _flat(value, f"{prefix}{key}."))
    return flat


def test_one_times_schedule():
    cfg = opened("mask_rcnn_fpn_coco").cfg
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (90000, (60000, 80000))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)


@pytest.mark.parametrize("name", FPN_RECIPES)
def test_written_recipe_reads_back_whole(name, tmp_path):
    config = opened(name, "SOLVER.MAX_ITER=7")
    config.write(SMALL, tmp_path / "backbone.pth", tmp_path / "winner.yaml")
    again = opened(str(tmp_path / "winner.yaml"))
    changed = {key for key, value in _flat(again.cfg).items() if value != _flat(config.cfg)[key]}
    assert changed == {"MODEL.DATA_RESNET.ARCH", "MODEL.WEIGHTS"}
    assert again.taps == config.taps


# detectron2's own configs


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", ("C2", "C3", "C4", "C5")),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml", ("C5",)),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", ("C5",)),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", ("C3", "C4", "C5")),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", ("C2", "C3", "C4", "C5")),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", ("C2", "C3", "C4", "C5")),
        ("semantic_R_50_FPN_1x", ("C2", "C3", "C4", "C5")),
        ("cascade_mask_rcnn_R_50_FPN_3x", ("C2", "C3", "C4", "C5")),
    ],
)
def test_zoo_names_are_known_and_their_models_have_our_backbone(detector_inputs, name, taps):
    config = opened(name, *QUICK, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=1")
    model = build_model(config.cfg)
    assert isinstance(bottom_up(model), adapter.DATAResNet)
    assert config.taps == taps
    assert config.cfg.MODEL.WEIGHTS == ""
    inputs = detector_inputs()
    for item in inputs:
        height, width = item["image"].shape[-2:]
        item["sem_seg"] = torch.randint(0, 54, (height, width))
        instances = item["instances"]
        instances.gt_classes.zero_()
        instances.gt_keypoints = _keypoints(instances)
    learn(model, inputs)
    # detectron2 freezes stem and stage 1 in its own configs.
    assert bottom_up(model).layer3[0].conv2.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert len(model.eval()([{"image": inputs[0]["image"]}])) == 1


def _keypoints(instances):
    from detectron2.structures import Keypoints

    centres = instances.gt_boxes.get_centers()
    return Keypoints(torch.cat([centres, torch.full((len(centres), 1), 2.0)], dim=1)[:, None])


def test_dilated_c5_keeps_stride_16():
    with pytest.warns(UserWarning, match="takes the place"):
        config = opened("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", *QUICK)
    assert bottom_up(build_model(config.cfg)).output_shape()["res5"].stride == 16
    assert config.resolution == Resolution(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))


def test_the_resnet_keeps_its_depth_and_what_is_left_out_is_said():
    with pytest.warns(UserWarning, match=r"stride moves .* MODEL.WEIGHTS detectron2://\S+R-101.pkl.* left out"):
        cfg = opened("COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml").cfg
    assert Arch.parse(cfg.MODEL.DATA_RESNET.ARCH) == Arch(stem=64, width=(64, 128, 256, 512), depth=(3, 4, 23, 3))
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1


def test_weights_of_ones_own_stay():
    with pytest.warns(UserWarning, match="stride moves"):
        cfg = load("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "MODEL.WEIGHTS=own/backbone.pth")
    assert cfg.MODEL.WEIGHTS == "own/backbone.pth"


def test_the_zoo_tells_the_framework():
    assert find_framework(None, "COCO-Detection/retinanet_R_50_FPN_1x", "detection") is DETECTRON2


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mask_rcnn_R_50_FPN_1x", [], "several configs .*LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        ("COCO-Detection/faster_rcnn_R_50_FNP_1x", [], "faster_rcnn_R_50_FPN_1x"),
        ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", [], "NUM_GROUPS is 32"),
        ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml", [], "DEFORM_ON_PER_STAGE"),
        ("Misc/mask_rcnn_R_50_FPN_3x_gn.yaml", [], "NORM is 'GN'.* batch norm"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", ["MODEL.RESNETS.DEPTH=18"], "DEPTH is 18, whose blocks"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", ["MODEL.RESNETS.WIDTH_PER_GROUP=128"], "WIDTH_PER_GROUP 128"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", ["MODEL.BACKBONE.NAME="], "MODEL.BACKBONE.NAME is ''"),
    ],
)
def test_what_a_plain_network_cannot_stand_for_is_refused(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        opened(name, *options)
    assert "\n" not in str(caught.value)


def test_a_lazy_config_is_no_config_of_the_tools(tmp_path):
    (tmp_path / "lazy.py").touch()
    with pytest.raises(UserError, match=r"lazy\.py is a LazyConfig, .*lazy_with_data_resnet"):
        opened(str(tmp_path / "lazy.py"))


def test_what_refusals_advise_works():
    advice = ["MODEL.RESNETS.DEPTH=50", "MODEL.RESNETS.RES2_OUT_CHANNELS=256", "INPUT.FORMAT=RGB"]
    mean, std = InputFormat.imagenet().mean, InputFormat.imagenet().std
    advice += [f"MODEL.PIXEL_MEAN={list(mean)}", f"MODEL.PIXEL_STD={list(std)}"]
    with pytest.warns(UserWarning, match="takes the place"):
        config = opened("COCO-Detection/rpn_R_50_FPN_1x.yaml", *advice)
    assert Arch.parse(config.cfg.MODEL.DATA_RESNET.ARCH) == Arch.resnet50()
    InputFormat.imagenet().require(config.input_format, "the config")


# LazyConfigs


@pytest.mark.parametrize(
    "name",
    [
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
        "COCO-Detection/retinanet_R_50_FPN_1x.py",
        "COCO-Detection/fcos_R_50_FPN_1x.py",
        "new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ.py",
    ],
)
def test_lazy_config_trains_another_architecture_from_its_weights(detector_inputs, name, tmp_path):
    save_backbone(tmp_path, PlainDATAResNet(SMALL))
    stock = model_zoo.get_config(name)
    before = str(stock)
    cfg = adapter.lazy_with_data_resnet(stock, SMALL, tmp_path / PTH_FILE)
    assert str(stock) == before
    if "roi_heads" in cfg.model:
        cfg.model.roi_heads.batch_size_per_image = 16
    model = instantiate(cfg.model)
    # As detectron2's lazyconfig_train_net.py does.
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    stored = torch.load(tmp_path / PTH_FILE, weights_only=True)
    assert torch.equal(bottom_up(model).layer3[0].conv2.weight, stored["layer3.0.conv2.weight"])
    learn(model, detector_inputs())
    assert bottom_up(model).layer3[0].conv2.weight.grad.abs().sum() > 0


def test_lazy_config_keeps_the_resnets_depth_and_freezing():
    stock = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    stock.model.backbone.bottom_up.stages.depth = 101
    with pytest.warns(UserWarning, match=r"stride moves .* train.init_checkpoint detectron2://\S+ .* left out"):
        cfg = adapter.lazy_with_data_resnet(stock)
    assert cfg.train.init_checkpoint == ""
    network = instantiate(cfg.model.backbone).bottom_up
    assert network.arch == Arch(stem=64, width=(64, 128, 256, 512), depth=(3, 4, 23, 3))
    assert isinstance(network.bn1, FrozenBatchNorm2d)
    assert not network.layer1[0].conv1.weight.requires_grad
    assert network.layer2[0].conv1.weight.requires_grad


def _with(entry: str, value: object):
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    node, _, key = entry.rpartition(".")
    OmegaConf.select(cfg, node)[key] = value
    return cfg


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py"), "is RegNet"),
        (lambda: model_zoo.get_config("Misc/mmdet_mask_rcnn_R_50_FPN_1x.py"), "has no backbone"),
        (lambda: _with("model.backbone.bottom_up.stages.num_groups", 32), "num_groups"),
        (lambda: _with("model.backbone.bottom_up.stages.depth", 18), "depth 18"),
        (lambda: _with("model.backbone.bottom_up.stages.block_class", DeformBottleneckBlock), "DeformBottleneckBlock"),
        (lambda: _with("model.backbone.bottom_up.stages.norm", "GN"), "norm is 'GN'"),
    ],
)
def test_lazy_configs_that_are_not_plain_are_refused(config, words):
    with pytest.raises(UserError, match=words) as caught:
        adapter.lazy_with_data_resnet(config())
    assert "\n" not in str(caught.value)
