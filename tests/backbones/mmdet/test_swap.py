"""MMDetection's own configs with ``DATAResNet`` in the place of their ResNet, against MMDetection's own models."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.backbones.openmmlab.swap import detector, replace_resnet, set_arch
from data_plugin.frameworks.registry import MMDET
from data_plugin.space.resolution import Resolution
from data_plugin.tools import finetune_det

SMALL = Arch.parse("d1-2-1-2_w8-8-16-24-40")
C2, C3, C4, C5 = SMALL.out_channels


@pytest.fixture(autouse=True)
def _default_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def zoo(name: str) -> Config:
    return Config.fromfile(MMDET.configs.find(name))


def swapped(config: Config, arch: Arch | None = None) -> Config:
    config = copy.deepcopy(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        replace_resnet(config, MODELS)
    if arch:
        set_arch(detector(config), arch)
    return config


def of(config: Config) -> MMDetConfig:
    """What says what there is to know of a config, whose data need not exist."""
    opened = MMDetConfig.__new__(MMDetConfig)
    opened.cfg = config
    return opened


def losses(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    batch = demo_mm_inputs(1, [(3, 64, 96)], num_items=[2], with_mask=True)
    batch["data_samples"][0].gt_instances.labels.zero_()
    torch.manual_seed(0)
    np.random.seed(0)
    found = model(**model.data_preprocessor(batch, True), mode="loss")
    _, named = model.parse_losses(found)
    return {name: value for name, value in named.items() if "loss" in name}


# The same weights, the same losses


@pytest.mark.parametrize(
    ("name", "autocast"),
    [
        ("mask-rcnn_r50_fpn_1x_coco", False),  # MMCV has no RoIAlign in bfloat16 for the CPU
        ("retinanet_r50_fpn_1x_coco", False),
        ("retinanet_r50_fpn_1x_coco", True),
    ],
)
def test_losses_and_gradients_equal_those_of_the_stock_model(name: str, autocast: bool) -> None:
    stock = zoo(name)
    if "roi_head" in stock.model:
        stock.model.train_cfg.rcnn.sampler.num = 16
        stock.model.train_cfg.rpn_proposal.max_per_img = 30
    theirs, ours = MODELS.build(stock.model), MODELS.build(swapped(stock).model)
    assert type(theirs.backbone).__name__ == "ResNet"
    assert isinstance(ours.backbone, DATAResNet)
    with torch.no_grad():
        for key, value in theirs.backbone.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, expected = losses(ours.train()), losses(theirs.train())
    assert found.keys() == expected.keys()
    assert len(found) >= 3
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], msg=key)
    found["loss"].backward()
    expected["loss"].backward()
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (gradients[key] is None), key  # frozen_stages=1
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-4, rtol=1e-3, msg=key)


# Channels


def channels(config: Config) -> dict[str, object]:
    """Every number of channels outside the backbone."""
    found: dict[str, object] = {}

    def walk(node: object, at: str) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                if "channels" in key:
                    found[f"{at}{key}"] = child
                walk(child, f"{at}{key}.")
        elif isinstance(node, (list, tuple)):
            for index, child in enumerate(node):
                walk(child, f"{at}{index}.")

    walk({key: value for key, value in detector(config).items() if key != "backbone"}, "")
    return found


@pytest.mark.parametrize(
    ("name", "follow"),
    [
        ("mask-rcnn_r50_fpn_1x_coco", {"neck.in_channels": [C2, C3, C4, C5]}),
        ("atss_r50_fpn_dyhead_1x_coco", {"neck.0.in_channels": [C2, C3, C4, C5]}),
        ("yolof_r50-c5_8xb8-1x_coco", {"neck.in_channels": C5}),
        ("detr_r50_8xb2-150e_coco", {"neck.in_channels": [C5]}),
        ("deformable-detr_r50_16xb2-50e_coco", {"neck.in_channels": [C3, C4, C5]}),
        ("clrnet", {"neck.in_channels": [C2, C3, C4]}),
        ("mask2former_r50_8xb2-lsj-50e_coco", {"panoptic_head.in_channels": [C2, C3, C4, C5]}),
        (
            "mask-rcnn_r50-caffe-c4_1x_coco",
            {
                "rpn_head.in_channels": C4,
                "rpn_head.feat_channels": C4,
                "roi_head.bbox_roi_extractor.out_channels": C4,
                "roi_head.bbox_head.in_channels": C5,
                "roi_head.mask_head.in_channels": C5,
            },
        ),
        ("rpn_r50-caffe-c4_1x_coco", {"rpn_head.in_channels": C4, "rpn_head.feat_channels": C4}),
        (
            "faster-rcnn_r50-caffe-dc5_1x_coco",
            {
                "rpn_head.in_channels": C5,
                "rpn_head.feat_channels": C5,
                "roi_head.bbox_roi_extractor.out_channels": C5,
                "roi_head.bbox_head.in_channels": C5,
            },
        ),
        ("qdtrack_faster-rcnn_r50_fpn_4e_base", {"neck.in_channels": [C2, C3, C4, C5]}),
    ],
)
def test_channel_counts_that_follow_change_and_no_others(name: str, follow: dict) -> None:
    stock = zoo(name)
    config = swapped(stock, SMALL)
    before, after = channels(stock), channels(config)
    assert {key: after[key] for key in follow} == follow
    same = {key: value for key, value in before.items() if key not in follow}
    assert {key: after[key] for key in same} == same
    assert detector(config).backbone.arch == str(SMALL)
    set_arch(detector(config), Arch.resnet50())
    assert {key: after_value for key, after_value in channels(config).items() if key in before} == {
        key: list(value) if isinstance(value, (list, tuple)) else value for key, value in before.items()
    }


@pytest.mark.parametrize("name", ["mask-rcnn_r50-caffe-c4_1x_coco", "faster-rcnn_r50-caffe-dc5_1x_coco"])
def test_detectors_without_a_neck_run_with_another_architecture(name: str) -> None:
    config = swapped(zoo(name), SMALL)
    config.model.train_cfg.rcnn.sampler.num = 16
    config.model.train_cfg.rpn_proposal.max_per_img = 30
    config.model.test_cfg.rpn.max_per_img = 10
    model = MODELS.build(config.model).train()
    found = losses(model)
    found["loss"].backward()
    head = model.roi_head.shared_head if "c4" in name else model.backbone
    assert head.layer4[0].downsample[0].weight.grad.abs().sum() > 0
    batch = demo_mm_inputs(1, [(3, 64, 96)], num_items=[2])
    with torch.no_grad():
        assert len(model.eval()(**model.data_preprocessor(batch, False), mode="predict")) == 1


# Options and weights


def test_options_keep_their_meaning_and_defaults_are_mmdets() -> None:
    backbone = swapped(zoo("faster-rcnn_r50-caffe-dc5_1x_coco")).model.backbone
    assert (backbone.strides, backbone.dilations, backbone.out_indices) == ((1, 2, 2, 1), (1, 1, 1, 2), (3,))
    assert backbone.norm_cfg == {"type": "BN", "requires_grad": False}
    assert (backbone.norm_eval, backbone.frozen_stages) == (True, 1)
    bare = swapped(Config({"model": {"backbone": {"type": "mmdet.ResNet", "depth": 101, "base_channels": 32}}}))
    assert bare.model.backbone == {
        "type": "DATAResNet",
        "arch": "d3-4-23-3_w32-32-64-128-256",
        "in_channels": 3,
        "num_stages": 4,
        "strides": (1, 2, 2, 2),
        "dilations": (1, 1, 1, 1),
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": -1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": True,
        "with_cp": False,
        "zero_init_residual": True,
        "init_cfg": None,
    }


def test_a_config_of_ours_stays_as_it_is() -> None:
    config = Config.fromfile(MMDET.configs.find("faster_rcnn_c4_voc"))
    assert swapped(config).pretty_text == config.pretty_text


def test_what_cannot_be_shared_is_said() -> None:
    config = zoo("mask-rcnn_r50-caffe_fpn_1x_coco")
    with pytest.warns(UserWarning, match=r"style='caffe'.*resnet50_caffe.* left out"):
        replace_resnet(config, MODELS)
    assert config.model.backbone.init_cfg is None
    config = zoo("mask-rcnn_r50_fpn_1x_cityscapes")
    with pytest.warns(UserWarning, match=r"load_from=.*mask_rcnn_r50_fpn_1x_coco.* left out"):
        replace_resnet(config, MODELS)
    assert config.load_from is None
    config = zoo("qdtrack_faster-rcnn_r50_fpn_4e_base")
    with pytest.warns(UserWarning, match=r"init_cfg=.*coco-person.* left out"):
        replace_resnet(config, MODELS)
    assert config.model.detector.init_cfg is None


def test_imagenet_weights_of_a_stock_config_are_loaded_strictly(monkeypatch) -> None:
    weights = DATAResNet(Arch.resnet50()).state_dict()
    file = {**weights, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    asked = []

    def load(name: str, map_location: str) -> dict:
        asked.append(name)
        return file

    monkeypatch.setattr(CheckpointLoader, "load_checkpoint", load)
    backbone = swapped(zoo("mask-rcnn_r50_fpn_1x_coco")).model.backbone
    model = MODELS.build(backbone)
    model.init_weights()
    assert asked == ["torchvision://resnet50"]
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"torchvision://resnet50 does not hold .*of another shape"):
        MODELS.build({**backbone, "arch": str(SMALL)}).init_weights()


# Taps


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("mask-rcnn_r50_fpn_1x_coco", "C2 C3 C4 C5"),
        ("retinanet_r50_fpn_1x_coco", "C3 C4 C5"),
        ("fcos_r50-caffe_fpn_gn-head_1x_coco", "C3 C4 C5"),
        ("atss_r50_fpn_dyhead_1x_coco", "C3 C4 C5"),
        ("retinanet_r50_nasfpn_crop640-50e_coco", "C3 C4 C5"),
        ("yolof_r50-c5_8xb8-1x_coco", "C5"),
        ("detr_r50_8xb2-150e_coco", "C5"),
        ("deformable-detr_r50_16xb2-50e_coco", "C3 C4 C5"),
        ("mask2former_r50_8xb2-lsj-50e_coco", "C2 C3 C4 C5"),
        ("mask-rcnn_r50-caffe-c4_1x_coco", "C5"),
        ("faster-rcnn_r50-caffe-dc5_1x_coco", "C5"),
        ("rpn_r50-caffe-c4_1x_coco", "C4"),
        ("clrnet", "C2 C3 C4"),
        ("qdtrack_faster-rcnn_r50_fpn_4e_base", "C2 C3 C4 C5"),
    ],
)
def test_taps_are_what_the_model_reads(name: str, taps: str) -> None:
    assert of(swapped(zoo(name))).taps == tuple(taps.split())


def test_strides_of_a_shared_head_count() -> None:
    c4, dc5 = (swapped(zoo(f"faster-rcnn_r50-caffe{part}")) for part in ("-c4_ms-1x_coco", "-dc5_1x_coco"))
    assert of(c4).resolution == Resolution()
    assert of(dc5).resolution == Resolution(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))


def test_input_format_of_a_semi_supervised_detector() -> None:
    found = of(zoo("soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco")).input_format
    assert (found.channel_order, found.mean, found.std) == ("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))


# Refusals


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-rcnn_x101-32x4d_fpn_1x_coco", "backbone is ResNeXt, not a plain ResNet"),
        ("faster-rcnn_res2net-101_fpn_2x_coco", "backbone is Res2Net"),
        ("faster-rcnn_hrnetv2p-w18-1x_coco", "backbone is HRNet"),
        ("mask-rcnn_swin-t-p4-w7_fpn_1x_coco", "backbone is SwinTransformer"),
        ("detectors_htc-r50_1x_coco", "backbone is DetectoRS_ResNet"),
        ("retinanet_r18_fpn_1x_coco", "depth=18, .* give the option model.backbone.depth=50"),
        ("faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco", "cannot honour dcn="),
        ("mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco", "cannot honour plugins="),
        ("mask-rcnn_r50_fpn_gn-ws-all_2x_coco", "norm_cfg type='GN'"),
        ("mask-rcnn_r50_fpn_gn-all_2x_coco", "norm_cfg type='GN'"),
    ],
)
def test_what_is_no_plain_resnet_is_refused(name: str, message: str) -> None:
    config = zoo(name)
    with pytest.raises(UserError, match=message) as caught:
        replace_resnet(config, MODELS)
    assert "\n" not in str(caught.value)


def test_the_option_that_a_refusal_names_helps() -> None:
    config = zoo("retinanet_r18_fpn_1x_coco")
    assert config.model.neck.in_channels == [64, 128, 256, 512]
    config.model.backbone.depth = 50
    assert swapped(config).model.neck.in_channels == [256, 512, 1024, 2048]


def test_options_that_change_the_network_are_refused() -> None:
    for option in ({"avg_down": True}, {"multi_grid": (1, 2, 4)}, {"conv_cfg": {"type": "ConvWS"}}):
        config = Config({"model": {"backbone": {"type": "ResNet", "depth": 50, **option}}})
        with pytest.raises(UserError, match=f"cannot honour {next(iter(option))}="):
            replace_resnet(config, MODELS)


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(UserError, match=r"model \(FasterRCNN\) has no backbone"):
        replace_resnet(Config({"model": {"type": "FasterRCNN"}}), MODELS)
    with pytest.raises(UserError, match="backbone is None, not a plain ResNet"):
        replace_resnet(zoo("d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco"), MODELS)
    shared = {"type": "ResLayer", "depth": 101, "stage": 3}
    model = {"backbone": {"type": "ResNet", "depth": 50, "num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1)}}
    with pytest.raises(UserError, match="expected type='ResLayer' with stage=3 and depth=50"):
        replace_resnet(Config({"model": {**model, "roi_head": {"shared_head": shared}}}), MODELS)


# Names


def test_names_of_the_model_zoo() -> None:
    path = MMDET.configs.find("mask-rcnn_r50_fpn_1x_coco")
    assert path.parts[-2:] == ("mask_rcnn", "mask-rcnn_r50_fpn_1x_coco.py")
    assert MMDET.configs.find("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py") == path
    assert MMDET.configs.find("faster_rcnn_c4_voc").parts[-2] == "mmdet"
    with pytest.raises(UserError, match=r"neither a file .* faster_rcnn_c4_voc.*, mask-rcnn_r50_fpn_1x_coco"):
        MMDET.configs.find("mask_rcnn_r50_fpn_1x_coco")
    with pytest.raises(UserError, match="names several configs"):
        MMDET.configs.find("grounding_dino_swin-t_pretrain_odinw13")
    assert MMDET.configs.in_zoo("default_runtime") is None  # a part in _base_


def test_a_zoo_config_finds_its_data_or_says_so(tmp_path: Path) -> None:
    without = MMDetConfig(MMDET.configs.find("mask-rcnn_r50_fpn_1x_coco"), [], None)
    for ask in (without.images, lambda: without.finetune(tmp_path / "out")):
        with pytest.raises(UserError, match=r"data/coco is not a folder; give --data-root"):
            ask()
    with pytest.raises(UserError, match=r"has no annotations/instances_train2017.json; expected .* train2017/ in it"):
        MMDetConfig(MMDET.configs.find("mask-rcnn_r50_fpn_1x_coco"), [], tmp_path)


def test_the_tools_refuse_a_config_without_a_backbone_in_one_sentence(tmp_path: Path, capsys) -> None:
    loaders = "".join(f"{name}_dataloader = dict(dataset=dict())\n" for name in ("train", "val", "test"))
    (tmp_path / "config.py").write_text(f"model = dict(type='FasterRCNN')\n{loaders}")
    out = tmp_path / "out"
    arguments = ["--framework", "mmdet", "--config", str(tmp_path / "config.py"), "--out", str(out)]
    assert finetune_det.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "the config's model (FasterRCNN) has no backbone" in error
    assert "Traceback" not in error
    assert not out.exists()
