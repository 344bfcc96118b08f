"""The detectron2 adapter against detectron2 itself: networks, weights, configs."""

import copy
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from samples import used

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet as PlainDATAResNet
from data_plugin.backbones import detectron2 as adapter
from data_plugin.backbones.detectron2.weights import BY_NAME_ENDINGS, require_detector, require_start
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.backbone_files import PTH_FILE, SAFETENSORS_FILE, save_backbone

pytestmark = pytest.mark.filterwarnings("ignore:DATAResNet takes the place")

SMALL = Arch.parse("d1-2-1-2_w8-16-16-24-32")


def load(name: str, *options: str, root: Path | None = None) -> adapter.Detectron2Config:
    return adapter.Detectron2Config(DETECTRON2.configs.find(name), options, root)


def voc_config(*options: str, arch: Arch = SMALL) -> CfgNode:
    return load("faster_rcnn_c4_voc", f"MODEL.DATA_RESNET.ARCH={arch}", "MODEL.DEVICE=cpu", *options).cfg


def zoo_config(name: str, *options: str) -> CfgNode:
    """A config of detectron2's model zoo as it is, with the architecture that is to take its ResNet's place."""
    cfg = model_zoo.get_config(name)
    for option in (f"MODEL.DATA_RESNET.ARCH={SMALL}", "MODEL.DEVICE=cpu", *options):
        cfg.merge_from_list(option.split("=", 1))
    return cfg


def stock_name(name: str) -> str:
    """What detectron2's ResNet calls a parameter of torchvision's."""
    name = name.replace("layer4", "res5").replace("layer3", "res4").replace("layer2", "res3").replace("layer1", "res2")
    if name.startswith(("conv1", "bn1")):
        name = f"stem.{name}"
    for number in "123":
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


# The backbone


def test_backbone_is_built_from_a_config_by_its_name():
    backbone = build_backbone(voc_config())
    assert isinstance(backbone, adapter.DATAResNet)
    assert backbone.output_shape() == {"res4": ShapeSpec(channels=96, stride=16)}
    assert not hasattr(backbone, "layer4")
    assert {"conv1.weight", "bn1.weight", "layer3.0.downsample.0.weight"} <= set(backbone.state_dict())
    assert backbone.size_divisibility == 0


@pytest.mark.parametrize("dilation", [1, 2])
def test_output_shape_is_what_the_features_have(dilation):
    network = adapter.DATAResNet(SMALL, res5_dilation=dilation).eval()
    features = network(torch.rand(1, 3, 64, 96))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for name, shape in network.output_shape().items():
        assert features[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_backbone_without_a_config_is_the_plain_network():
    network = adapter.DATAResNet(SMALL, out_features=["res3", "res5"]).eval()
    plain = PlainDATAResNet(SMALL, out_indices=(1, 3)).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(network(images).values(), plain(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freeze_at_freezes_what_detectron2s_resnet_freezes(freeze_at):
    cfg = zoo_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "MODEL.RESNETS.NORM=BN")
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.DATA_RESNET.ARCH = str(Arch.resnet50())
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    stock = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = "DATAResNet"
    ours = build_backbone(cfg).train()
    learning = {stock_name(name) for name, value in ours.named_parameters() if value.requires_grad}
    assert learning == {name for name, value in stock.named_parameters() if value.requires_grad}
    frozen = {stock_name(name) for name, module in ours.named_modules() if isinstance(module, FrozenBatchNorm2d)}
    assert frozen == {name for name, module in stock.named_modules() if isinstance(module, FrozenBatchNorm2d)}


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("BN", torch.nn.BatchNorm2d),
        ("SyncBN", torch.nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", torch.nn.GroupNorm),
    ],
)
def test_norms_are_detectron2s(norm, kind):
    arch = Arch.parse("d1-1-1-1_w32-32-32-32-32")
    network = adapter.DATAResNet(arch, norm=norm)
    assert isinstance(network.bn1, kind)
    assert isinstance(network.layer4[0].downsample[1], kind)


def test_checkpointing_changes_no_gradient():
    networks = [adapter.DATAResNet(SMALL, with_cp=with_cp).train() for with_cp in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.rand(2, 3, 64, 64)
    for network in networks:
        network(images)["res5"].square().mean().backward()
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out_features": ["res6"]}, "res6"),
        ({"out_features": []}, "res2, res3, res4, res5"),
        ({"res5_dilation": 4}, "4"),
        ({"norm": "LayerBN"}, "LayerBN"),
        ({"norm": ""}, "norm is ''"),
        ({"norm": "GN"}, "16 channels"),
    ],
)
def test_wrong_backbone_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        adapter.DATAResNet(Arch.parse("d1-1-1-1_w16-16-16-16-16"), **options)


# Against detectron2's own ResNet-50


def test_features_equal_detectron2s_resnet50():
    cfg = voc_config("MODEL.RESNETS.OUT_FEATURES=['res2','res3','res4','res5']", arch=Arch.resnet50())
    ours = used(build_backbone(cfg))
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    stock = build_backbone(cfg)
    stock.load_state_dict({stock_name(name): value for name, value in ours.state_dict().items()})
    images = torch.rand(1, 3, 97, 65)
    with torch.no_grad():
        for mode in (False, True):
            for ours_map, stock_map in zip(
                ours.train(mode)(images).values(), stock.train(mode)(images).values(), strict=True
            ):
                assert stock_map.std() > 0
                torch.testing.assert_close(ours_map, stock_map, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "autocast"),
    [
        ("PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", False),
        ("PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", True),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", False),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", False),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", False),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", False),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", True),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", False),
        ("Misc/semantic_R_50_FPN_1x.yaml", False),
    ],
)
def test_losses_and_gradients_equal_those_of_detectron2s_resnet50(detector_inputs, name, autocast):
    config = zoo_config(
        name, f"MODEL.DATA_RESNET.ARCH={Arch.resnet50()}", "MODEL.RESNETS.STRIDE_IN_1X1=False", "MODEL.WEIGHTS="
    )
    stock, ours = build_model(config), build_model(adapter.with_data_resnet(config))

    def ours_name(name: str) -> str:
        for prefix in ("backbone.bottom_up.", "backbone."):
            if name.startswith(prefix) and name.removeprefix(prefix) in in_stock:
                return prefix + in_stock[name.removeprefix(prefix)]
        if name.startswith("roi_heads.res5."):
            return "roi_heads.res5." + in_stock[name.removeprefix("roi_heads.")]
        return name

    in_stock = {stock_name(name): name for name in PlainDATAResNet(Arch.resnet50()).state_dict()}
    weights = {ours_name(name): value for name, value in stock.state_dict().items()}
    outcome = ours.load_state_dict(weights, strict=False)
    assert not outcome.unexpected_keys
    assert not [key for key in outcome.missing_keys if not key.endswith("num_batches_tracked")]
    losses = []
    for model in (stock, ours):
        torch.manual_seed(0)
        with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = model.train()(detector_inputs())
        sum(found.values()).backward()
        losses.append({key: value.item() for key, value in found.items()})
    gradients = {ours_name(key): value.grad for key, value in stock.named_parameters()}
    for key, value in ours.named_parameters():
        assert (value.grad is None) == (gradients[key] is None), key
        if value.grad is not None:
            torch.testing.assert_close(value.grad, gradients[key], atol=1e-4, rtol=1e-3, msg=key)
    assert losses[0].keys() == losses[1].keys()
    assert sum(losses[0].values()) > 0
    for key, value in losses[0].items():
        assert losses[1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


# The RoI head and the pyramids


@pytest.mark.parametrize("extra_norm", [True, False])
def test_roi_head_is_stage_four_of_the_architecture(extra_norm):
    heads = build_model(voc_config(f"MODEL.DATA_RESNET.RES5_EXTRA_NORM={extra_norm}")).roi_heads
    assert isinstance(heads, adapter.DATARes5ROIHeads)
    assert heads.res5(torch.rand(2, 96, 14, 14)).shape == (2, 128, 7, 7)
    assert len(heads.res5.layer4) == SMALL.depth[3]
    assert isinstance(heads.res5.norm, torch.nn.SyncBatchNorm) == extra_norm
    assert heads.box_predictor.cls_score.in_features == 128
    assert heads.box_predictor.cls_score.out_features == 21


def test_mask_head_follows_the_architecture():
    cfg = adapter.with_data_resnet(zoo_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"))
    heads = build_model(cfg).roi_heads
    assert heads.mask_head.deconv.in_channels == 128
    assert heads.res5.norm is None


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
    ],
)
def test_pyramids_take_the_place_of_detectron2s(detector_inputs, name, levels):
    model = build_model(adapter.with_data_resnet(zoo_config(name)))
    assert isinstance(model.backbone.bottom_up, adapter.DATAResNet)
    assert {key: shape.stride for key, shape in model.backbone.output_shape().items()} == levels
    assert model.backbone.size_divisibility == 32
    with EventStorage():
        sum(model.train()(detector_inputs()).values()).backward()
    assert model.backbone.bottom_up.layer4[0].conv1.weight.grad.abs().sum() > 0


def test_a_resnet_that_is_not_plain_is_refused():
    with pytest.raises(UserError, match="NUM_GROUPS is 32"):
        adapter.with_data_resnet(zoo_config("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"))
    with pytest.raises(UserError, match="DEFORM_ON_PER_STAGE"):
        adapter.with_data_resnet(zoo_config("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml"))
    with pytest.raises(UserError, match="NUM_GROUPS is 32"):
        build_backbone(voc_config("MODEL.RESNETS.NUM_GROUPS=32"))
    with pytest.raises(UserError, match="build_vit"):
        adapter.with_data_resnet(voc_config("MODEL.BACKBONE.NAME=build_vit"))


# Weights


@pytest.fixture
def backbone_file(tmp_path) -> Path:
    save_backbone(tmp_path / "winner", used(PlainDATAResNet(SMALL)))
    return tmp_path / "winner" / PTH_FILE


def expected_in_detector(file: Path, backbone: str, head: str | None) -> dict[str, torch.Tensor]:
    weights = torch.load(file, weights_only=True)
    if head is None:
        return {backbone + name: value for name, value in weights.items()}
    return {(head if name.startswith("layer4.") else backbone) + name: value for name, value in weights.items()}


def test_c4_detector_gets_every_backbone_weight_through_detectron2s_checkpointer(backbone_file, caplog):
    model = build_model(voc_config())
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(f"{backbone_file}{BY_NAME_ENDINGS}")
    after, expected = model.state_dict(), expected_in_detector(backbone_file, "backbone.", "roi_heads.res5.")
    for name, value in after.items():
        if name in expected:
            assert torch.equal(value, expected.pop(name)), name
        else:
            assert name.startswith(("roi_heads.res5.norm.", "roi_heads.box_predictor.", "proposal_generator."))
            assert torch.equal(value, before[name]), name
    assert not expected
    assert "unexpected" not in caplog.text
    assert "not found in the model" not in caplog.text


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_fpn_detector_gets_every_backbone_weight(backbone_file, norm):
    cfg = zoo_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", f"MODEL.RESNETS.NORM={norm}")
    model = build_model(adapter.with_data_resnet(cfg))
    DetectionCheckpointer(model).load(f"{backbone_file}{BY_NAME_ENDINGS}")
    expected = expected_in_detector(backbone_file, "backbone.bottom_up.", None)
    after = model.state_dict()
    for name, value in expected.items():
        assert name.endswith("num_batches_tracked") or torch.equal(after[name], value), name


def test_a_copied_model_reads_backbone_files_too(backbone_file):
    model = copy.deepcopy(build_model(voc_config()))
    DetectionCheckpointer(model).load(f"{backbone_file}{BY_NAME_ENDINGS}")
    stored = torch.load(backbone_file, weights_only=True)
    assert torch.equal(model.roi_heads.res5.layer4[1].conv2.weight, stored["layer4.1.conv2.weight"])


def test_detector_checkpoint_passes_untouched(tmp_path):
    first, second = used(build_model(voc_config())), build_model(voc_config())
    DetectionCheckpointer(first, str(tmp_path)).save("model")
    DetectionCheckpointer(second).load(str(tmp_path / "model.pth"))
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name


def test_the_classifier_of_an_imagenet_file_is_left_over_and_named(backbone_file, tmp_path, caplog):
    weights = torch.load(backbone_file, weights_only=True)
    torch.save({**weights, "fc.weight": torch.zeros(10, 128)}, tmp_path / "imagenet.pth")
    model = build_model(voc_config())
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(f"{tmp_path / 'imagenet.pth'}{BY_NAME_ENDINGS}")
    assert torch.equal(model.backbone.conv1.weight, weights["conv1.weight"])
    assert "fc" in caplog.text


def damaged(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    if how == "missing":
        return {name: value for name, value in weights.items() if not name.startswith("layer4.1.conv2")}
    if how == "unexpected":
        return {**weights, "layer2.7.conv1.weight": torch.zeros(1)}
    return {**weights, "layer1.0.conv1.weight": torch.zeros(3, 8, 1, 1)}


@pytest.mark.parametrize("how", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize(
    "name", ["PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"]
)
def test_a_file_that_matches_in_part_is_refused(backbone_file, tmp_path, name, how):
    torch.save(damaged(torch.load(backbone_file, weights_only=True), how), tmp_path / "damaged.pth")
    model = build_model(adapter.with_data_resnet(zoo_config(name)))
    with pytest.raises(UserError, match=f"are not the backbone {SMALL}: 1 {how} .layer") as caught:
        DetectionCheckpointer(model).load(f"{tmp_path / 'damaged.pth'}{BY_NAME_ENDINGS}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=f"damaged.pth does not hold the backbone {SMALL}: 1 {how} .layer"):
        require_start(tmp_path / "damaged.pth", model, "the detector")


def test_a_file_that_detectron2_is_not_told_to_match_is_refused_with_what_to_add(backbone_file):
    for model in (build_model(voc_config()), adapter.Res5Stage(SMALL)):
        with pytest.raises(UserError, match=r"none of the weights .* \?matching_heuristics=True follows its name"):
            DetectionCheckpointer(torch.nn.ModuleDict({"detector": model})).load(str(backbone_file))


def test_weights_of_another_architecture_are_refused(backbone_file):
    wider = build_model(voc_config(arch=Arch.parse("d1-2-1-2_w8-16-16-32-32")))
    with pytest.raises(UserError, match=r"of another shape .layer3.0.conv1.weight"):
        DetectionCheckpointer(wider).load(f"{backbone_file}{BY_NAME_ENDINGS}")
    deeper = build_model(voc_config(arch=Arch.parse("d1-2-1-3_w8-16-16-24-48")))
    with pytest.raises(UserError, match=r"15 missing .layer4.*35 of another shape .layer4"):
        require_start(backbone_file, deeper, "the detector")
    # The norms of the block that the file lacks could be the stem's by their names.
    with pytest.raises(ValueError, match="Cannot match one checkpoint key to multiple keys"):
        DetectionCheckpointer(deeper).load(f"{backbone_file}{BY_NAME_ENDINGS}")


def test_a_detector_checkpoint_that_lacks_a_weight_of_the_backbone_is_refused(tmp_path):
    model = build_model(voc_config())
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("layer4.1.conv2.weight")}
    torch.save({"model": weights}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"1 missing .layer4.1.conv2.weight"):
        DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))


def test_importing_the_adapter_watches_no_modules():
    hooks = ("_global_module_registration_hooks", "_global_forward_hooks", "_global_parameter_registration_hooks")
    assert not any(getattr(torch.nn.modules.module, name) for name in hooks)
    assert not torch.nn.Sequential(adapter.DATAResNet(SMALL))._load_state_dict_pre_hooks


def test_batch_norm_statistics_do_not_vanish_in_group_norms(tmp_path):
    arch = Arch.parse("d1-1-1-1_w32-32-32-32-32")
    save_backbone(tmp_path, PlainDATAResNet(arch))
    model = build_model(voc_config("MODEL.RESNETS.NORM=GN", arch=arch))
    with pytest.raises(UserError, match=r"unexpected .*running_mean"):
        DetectionCheckpointer(model).load(f"{tmp_path / PTH_FILE}{BY_NAME_ENDINGS}")


def test_files_are_checked_before_training(backbone_file, tmp_path):
    model = build_model(voc_config())
    assert require_start(backbone_file, model, "the detector") == f"{backbone_file}{BY_NAME_ENDINGS}"
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "whole.pth")
    assert require_start(tmp_path / "whole.pth", model, "the detector") == str(tmp_path / "whole.pth")
    require_detector(tmp_path / "whole.pth", model, "the detector")
    with pytest.raises(UserError, match="does not hold the detector"):
        require_detector(backbone_file, model, "the detector")
    torch.save({"model": {"backbone.conv1.weight": torch.zeros(8, 3, 7, 7)}}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"does not hold the detector: .* missing"):
        require_start(tmp_path / "part.pth", model, "the detector")
    with pytest.raises(UserError, match=r"\.pth file of the same weights"):
        require_start(backbone_file.with_name(SAFETENSORS_FILE), model, "the detector")
    with pytest.raises(UserError, match="is not a file"):
        require_start(tmp_path / "absent.pth", model, "the detector")


# Configs


def test_recipe_reads_as_published():
    config = load("faster_rcnn_c4_voc")
    assert config.input_format == InputFormat.imagenet()
    assert config.taps == ("C5",)
    cfg = config.cfg
    assert Arch.parse(cfg.MODEL.DATA_RESNET.ARCH) == Arch.resnet50()
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS) == (24000, (18000, 22000), 100)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM, cfg.TEST.PRECISE_BN.ENABLED) == (0, "SyncBN", True)


@pytest.mark.filterwarnings("ignore:DATAResNet takes the place")
@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", ("C5",)),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", ("C2", "C3", "C4", "C5")),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", ("C3", "C4", "C5")),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", ("C5",)),
        ("COCO-Detection/rpn_R_50_C4_1x.yaml", ("C4",)),
    ],
)
def test_taps_are_what_the_model_reads(name, taps):
    assert load(name).taps == taps


def test_input_format_of_detectron2s_own_configs_is_another():
    found = load("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").input_format
    assert found == InputFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="BGR"):
        InputFormat.imagenet().require(found, "the config")


def test_written_config_trains_the_network_as_it_is(backbone_file):
    path = backbone_file.with_name("faster_rcnn_c4_voc.yaml")
    config = load("faster_rcnn_c4_voc", "SOLVER.MAX_ITER=7")
    config.write(SMALL, backbone_file, path)
    assert config.cfg.MODEL.WEIGHTS == ""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert cfg == load(str(path)).cfg
    assert Arch.parse(cfg.MODEL.DATA_RESNET.ARCH) == SMALL
    assert cfg.SOLVER.MAX_ITER == 7
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    stored = torch.load(backbone_file, weights_only=True)
    assert torch.equal(model.backbone.layer3[0].conv1.weight, stored["layer3.0.conv1.weight"])
    assert torch.equal(model.roi_heads.res5.layer4[0].conv1.weight, stored["layer4.0.conv1.weight"])


def test_written_config_of_a_stock_detector_has_our_backbone(tmp_path):
    path = tmp_path / "retinanet.yaml"
    load("COCO-Detection/retinanet_R_50_FPN_1x.yaml").write(SMALL, tmp_path / "backbone.pth", path)
    assert isinstance(build_backbone(load(str(path)).cfg).bottom_up, adapter.DATAResNet)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["SOLVER.MAX_ITERS=3"], "cannot use the option 'SOLVER.MAX_ITERS=3' .*Non-existent"),
        (["SOLVER.MAX_ITER"], "KEY=VALUE"),
        (["SEED=1", "SOLVER.MAX_ITER=many", "SEED=2"], "cannot use the option 'SOLVER.MAX_ITER=many' "),
        (["MODEL.DATA_RESNET.ARCH=resnet50"], "resnet50"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words) as caught:
        DETECTRON2.open("faster_rcnn_c4_voc", options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "MODEL: [",
        "MODEL:\n  NOTHING: 1\n",
        "just words",
        "_BASE_: no.yaml",
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a config that detectron2 can read"):
        load(str(path))


# Data roots


def test_data_root_is_used_and_a_missing_year_is_said(drawn_voc):
    before = MetadataCatalog.get("voc_2007_trainval").dirname
    with pytest.warns(UserWarning, match="has no VOC2012, so training uses voc_2007_trainval alone"):
        config = load("faster_rcnn_c4_voc", root=drawn_voc)
    assert config.cfg.DATASETS.TRAIN == ("voc_2007_trainval",)
    assert len(config.images()) == 8
    assert MetadataCatalog.get("voc_2007_trainval").dirname == before, "reading a config changes nothing else"


def test_both_years_are_used_where_they_are(drawn_voc, tmp_path):
    for year in ("2007", "2012"):
        shutil.copytree(drawn_voc / "VOC2007", tmp_path / "VOCdevkit" / f"VOC{year}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load("faster_rcnn_c4_voc", root=tmp_path)
    assert config.cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval")
    assert len(config.images()) == 16


def test_wrong_data_roots_are_refused(tmp_path, drawn_voc):
    with pytest.raises(UserError, match="is not a folder"):
        load("faster_rcnn_c4_voc", root=tmp_path / "absent")
    with pytest.raises(UserError, match="VOC layout"):
        load("faster_rcnn_c4_voc", root=tmp_path)
    with pytest.raises(UserError, match=r"VOC2012 is missing, .* voc_2012_trainval"):
        load("faster_rcnn_c4_voc", "DATASETS.TRAIN=('voc_2012_trainval',)", root=drawn_voc)
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        load("faster_rcnn_c4_voc", "DATASETS.TRAIN=('lvis_v1_train',)", root=drawn_voc)
