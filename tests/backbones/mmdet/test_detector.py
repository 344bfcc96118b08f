"""The MMDetection adapter against MMDetection itself: networks, weights, configs and images."""

import copy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples import used

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.models.backbones import ResNet
from mmdet.models.roi_heads.shared_heads.res_layer import ResLayer
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import InstanceData

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.backbones.mmdet.voc import UnlabelledVOCDataset
from data_plugin.backbones.openmmlab import resnet as openmmlab_resnet
from data_plugin.backbones.openmmlab.swap import set_arch, stages_read
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.batch import ImageBatches, draw_batches
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.backbone_files import PTH_FILE, SAFETENSORS_FILE, save_backbone

SMALL = Arch.parse("d1-2-1-2_w8-12-24-48-96")
C4 = {"num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1), "out_indices": (2,)}
NO_WORKERS = ["train_dataloader.num_workers=0", "val_dataloader.num_workers=0", "test_dataloader.num_workers=0"]


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    draw_voc(root, train=5, test=2, size=(96, 64))
    return root


@pytest.fixture(autouse=True)
def _default_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def load(voc: Path, *options: str, config: str = "faster_rcnn_c4_voc") -> MMDetConfig:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRAINING DATA")
        return MMDetConfig(MMDET.configs.find(config), [*NO_WORKERS, *options], voc)


# The backbone


def test_resnet50_equals_mmdets_features_and_gradients() -> None:
    ours, theirs = used(MODELS.build({"type": "DATAResNet", "arch": str(Arch.resnet50())})), ResNet(50)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, 3, 65, 97)
    for model in (ours, theirs):
        model.train()
    found, expected = ours(images), theirs(images)
    assert [feature.shape for feature in found] == [feature.shape for feature in expected]
    for ours_feature, theirs_feature in zip(found, expected, strict=True):
        assert theirs_feature.std() > 0
        torch.testing.assert_close(ours_feature, theirs_feature)
    found[3].square().mean().backward()
    expected[3].square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_eval": False},
        {"frozen_stages": 0, "norm_eval": False},
        {"frozen_stages": 2, "norm_eval": False},
        {"norm_cfg": {"type": "BN", "requires_grad": False}},
        {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "out_indices": (1, 3)},
        {**C4, "with_cp": True, "frozen_stages": 1},
        {"in_channels": 5, "zero_init_residual": False},
        {"norm_cfg": {"type": "SyncBN", "requires_grad": True}},
    ],
)
def test_options_do_what_they_do_in_mmdets_resnet(options: dict) -> None:
    ours, theirs = MODELS.build({"type": "DATAResNet", "arch": Arch.resnet50(), **options}), ResNet(50, **options)
    theirs.init_weights()
    for mode in (True, False, True):
        ours.train(mode)
        theirs.train(mode)
        assert norms_in_training(ours) == norms_in_training(theirs)
    assert learning(ours) == learning(theirs)
    theirs_norms = {name: value for name, value in theirs.state_dict().items() if value.ndim == 1}
    for name, value in theirs_norms.items():  # fresh norms, the zeros of zero_init_residual included
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    if options.get("norm_cfg", {}).get("type") == "SyncBN":
        return  # needs a GPU to run
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(1, options.get("in_channels", 3), 64, 64, requires_grad=True)
    found, expected = ours(images), theirs(images)
    for ours_feature, theirs_feature in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_feature, theirs_feature)


def norms_in_training(model: torch.nn.Module) -> dict[str, bool]:
    norm = torch.nn.modules.batchnorm._BatchNorm
    return {name: module.training for name, module in model.named_modules() if isinstance(module, norm)}


def learning(model: torch.nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def test_checkpointing_changes_neither_features_nor_gradients() -> None:
    plain, checkpointed = (
        MODELS.build({"type": "DATAResNet", "arch": SMALL, "norm_eval": False, "with_cp": with_cp})
        for with_cp in (False, True)
    )
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for model in (plain, checkpointed):
        sum(feature.sum() for feature in model.train()(images)).backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_group_norm() -> None:
    model = MODELS.build({"type": "DATAResNet", "arch": SMALL, "norm_cfg": {"type": "GN", "num_groups": 4}})
    assert isinstance(model.bn1, torch.nn.GroupNorm)
    assert model(torch.rand(1, 3, 32, 32))[3].shape == (1, 384, 1, 1)


@pytest.mark.parametrize(
    "option",
    [
        {"style": "caffe"},
        {"deep_stem": True},
        {"avg_down": True},
        {"dcn": {"type": "DCNv2"}},
        {"stage_with_dcn": (False, True, True, True)},
        {"plugins": [{}]},
        {"conv_cfg": {"type": "ConvWS"}},
        {"depth": 50},
        {"base_channels": 64},
    ],
)
@pytest.mark.parametrize("kind", ["DATAResNet", "DATAResLayer"])
def test_options_that_would_change_the_layers_are_refused(kind: str, option: dict) -> None:
    with pytest.raises(UserError, match=f"cannot honour {next(iter(option))}="):
        MODELS.build({"type": kind, "arch": SMALL, **option})


def test_neutral_options_are_taken_and_short_strides_refused() -> None:
    neutral = {"style": "pytorch", "deep_stem": False, "dcn": None, "stage_with_dcn": (False,) * 4}
    MODELS.build({"type": "DATAResNet", "arch": SMALL, **neutral})
    with pytest.raises(UserError, match=r"strides is \[1, 2\]; with 3 stages"):
        MODELS.build({"type": "DATAResNet", "arch": SMALL, "num_stages": 3, "strides": (1, 2), "out_indices": (2,)})


# The shared head


@pytest.mark.parametrize("norm_eval", [False, True])
def test_shared_head_equals_mmdets_res_layer(norm_eval: bool) -> None:
    ours = used(MODELS.build({"type": "DATAResLayer", "arch": Arch.resnet50(), "norm_eval": norm_eval}))
    theirs = ResLayer(50, norm_eval=norm_eval)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.train()
    theirs.train()
    assert norms_in_training(ours) == norms_in_training(theirs)
    features = torch.rand(3, 1024, 14, 14)
    torch.testing.assert_close(ours(features), theirs(features))


def test_extra_norm_follows_the_stage() -> None:
    head = MODELS.build({"type": "DATAResLayer", "arch": SMALL, "extra_norm": True, "norm_eval": False}).train()
    out = head(torch.rand(6, 192, 14, 14))
    assert out.shape == (6, 384, 7, 7)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(384), atol=1e-5, rtol=0)
    assert {name.split(".")[0] for name in head.state_dict()} == {"layer4", "norm"}


def test_c4_losses_equal_those_of_the_stock_resnet50_detector(voc: Path) -> None:
    config = load(voc).cfg.model
    batch_norm = {"type": "BN", "requires_grad": True}
    config.backbone.norm_cfg = config.roi_head.shared_head.norm_cfg = batch_norm
    config.roi_head.shared_head.extra_norm = False
    config.train_cfg.rcnn.sampler.num = 16
    config.train_cfg.rpn_proposal.max_per_img = 50
    stock = copy.deepcopy(config)
    stock.backbone = ConfigDict(type="ResNet", depth=50, norm_cfg=batch_norm, norm_eval=False, style="pytorch", **C4)
    stock.roi_head.shared_head = ConfigDict(
        type="ResLayer", depth=50, stage=3, stride=2, style="pytorch", norm_cfg=batch_norm, norm_eval=False
    )
    ours, theirs = MODELS.build(config).train(), MODELS.build(stock).train()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    data = {"inputs": [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)], "data_samples": [labelled_sample()]}
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        np.random.seed(0)
        losses.append(model(**model.data_preprocessor(copy.deepcopy(data), True), mode="loss"))
    found, expected = (
        {name: torch.as_tensor(value) for name, value in each.items() if "loss" in name} for each in map(flat, losses)
    )
    assert found.keys() == expected.keys() >= {"loss_cls", "loss_bbox", "loss_rpn_cls.0", "loss_rpn_bbox.0"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def flat(losses: dict) -> dict:
    lists = {name: value if isinstance(value, list) else [value] for name, value in losses.items()}
    return {
        (f"{name}.{index}" if isinstance(losses[name], list) else name): value
        for name, values in lists.items()
        for index, value in enumerate(values)
    }


def labelled_sample() -> DetDataSample:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0], [40.0, 5.0, 120.0, 50.0]])
    sample = DetDataSample(metainfo={"img_shape": (96, 128), "scale_factor": (1.0, 1.0), "ori_shape": (96, 128)})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3, 7]))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.tensor([], dtype=torch.long))
    return sample


# Weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_backbone(folder, used(DATAResNet(SMALL)))
    return folder


def pretrained(path: Path) -> dict:
    return {"type": "Pretrained", "checkpoint": str(path)}


@pytest.mark.parametrize("name", [PTH_FILE, SAFETENSORS_FILE])
def test_pretrained_weights_fill_backbone_and_head(weights: Path, name: str, monkeypatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(openmmlab_resnet, "print_log", lambda line, logger: logged.append(line))
    backbone = MODELS.build({"type": "DATAResNet", "arch": SMALL, **C4, "init_cfg": pretrained(weights / name)})
    head = MODELS.build(
        {"type": "DATAResLayer", "arch": SMALL, "extra_norm": True, "init_cfg": pretrained(weights / name)}
    )
    fresh = copy.deepcopy(head.norm.state_dict())
    backbone.init_weights()
    head.init_weights()
    saved = torch.load(weights / PTH_FILE, weights_only=True)
    loaded = {**backbone.state_dict(), **head.state_dict()}
    of_head = sum(key.startswith("layer4.") for key in saved)
    others = len(saved) - of_head
    counted = [
        ("OpenMMLabResNet", others, f"{of_head} of layer4"),
        ("DATAResLayer", of_head, f"{others} of bn1, conv1, layer1, layer2, layer3"),
    ]
    for line, (module, count, left_out) in zip(logged, counted, strict=True):
        assert f"in {module}: {count} of {count} matched, none missing or unexpected, from {weights / name}" in line
        assert line.endswith(f"; {left_out} are not for it")
    assert {name for name in loaded if not name.startswith("norm.")} == set(saved)
    for key, value in saved.items():
        assert torch.equal(loaded[key], value), key
    for key, value in fresh.items():
        assert torch.equal(head.norm.state_dict()[key], value), key


@pytest.mark.parametrize("name", [PTH_FILE, SAFETENSORS_FILE])
def test_weights_that_do_not_match_are_refused(weights: Path, tmp_path: Path, name: str) -> None:
    saved = torch.load(weights / PTH_FILE, weights_only=True)

    def refused(kind: str, tensors: dict, message: str) -> None:
        path = tmp_path / name
        save_file(tensors, path) if name == SAFETENSORS_FILE else torch.save(tensors, path)
        stages = C4 if kind == "DATAResNet" else {}
        module = MODELS.build({"type": kind, "arch": SMALL, **stages, "init_cfg": pretrained(path)})
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(UserError, match=message):
            module.init_weights()
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())

    without = {key: value for key, value in saved.items() if key != "layer4.1.bn3.num_batches_tracked"}
    refused("DATAResLayer", without, r"1 missing \(layer4.1.bn3.num_batches_tracked\)")
    refused("DATAResNet", {key: value for key, value in saved.items() if key != "conv1.weight"}, "missing")
    refused("DATAResNet", {**saved, "layer2.1.conv1.weight": torch.zeros(1)}, r"of another shape \(layer2.1.conv1")
    refused("DATAResNet", {**saved, "fc.weight": torch.zeros(1)}, r"unexpected \(fc.weight\)")
    refused("DATAResLayer", {**saved, "layer4.2.conv1.weight": torch.zeros(1)}, r"unexpected \(layer4.2.conv1")


def test_init_cfg_that_is_more_than_a_file_is_refused(weights: Path) -> None:
    with pytest.raises(UserError, match="has prefix"):
        MODELS.build(
            {"type": "DATAResNet", "arch": SMALL, "init_cfg": {**pretrained(weights / PTH_FILE), "prefix": "backbone."}}
        ).init_weights()
    with pytest.raises(UserError, match="give that entry alone"):
        MODELS.build(
            {"type": "DATAResNet", "arch": SMALL, "init_cfg": [pretrained(weights / PTH_FILE), {"type": "Kaiming"}]}
        ).init_weights()


def test_the_frameworks_other_initialisations_still_work() -> None:
    init_cfg = {"type": "Constant", "layer": "Conv2d", "val": 0.25}
    model = MODELS.build({"type": "DATAResNet", "arch": SMALL, "init_cfg": init_cfg})
    model.init_weights()
    assert (model.layer3[0].conv2.weight == 0.25).all()


def test_exported_resnet50_loads_into_mmdets_resnet(tmp_path: Path) -> None:
    network = DATAResNet(Arch.resnet50())
    save_backbone(tmp_path, network)
    theirs = ResNet(50)
    load_checkpoint(theirs, str(tmp_path / PTH_FILE), strict=True)
    for name, value in network.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


# Configs


def test_recipe_says_what_the_model_reads_and_how(voc: Path) -> None:
    config = load(voc)
    assert config.taps == ("C5",)
    assert config.input_format == InputFormat.imagenet()
    schedule = {each.type: each for each in config.cfg.param_scheduler}
    assert config.cfg.train_cfg.max_iters == schedule["MultiStepLR"].end == 24000
    assert schedule["MultiStepLR"].milestones == [18000, 22000]
    assert schedule["LinearLR"].end == 100
    scales = config.cfg.train_dataloader.dataset.datasets[0].pipeline[3].scales
    assert scales[0] == (1333, 480)
    assert scales[-1] == (1333, 800)
    assert len(scales) == 11


def test_input_format_follows_the_preprocessor(voc: Path) -> None:
    config = load(voc, "model.data_preprocessor.bgr_to_rgb=False", "model.data_preprocessor.mean=1,2,3")
    found = config.input_format
    assert found.channel_order == "BGR"
    assert found.mean == (1, 2, 3)


@pytest.mark.parametrize(
    ("neck", "out_indices", "expected"),
    [
        ({"type": "FPN"}, (0, 1, 2, 3), (0, 1, 2, 3)),
        ({"type": "FPN", "start_level": 1}, (0, 1, 2, 3), (1, 2, 3)),
        ({"type": "FPN", "start_level": 0, "end_level": 1}, (1, 2, 3), (1, 2)),
        ([{"type": "FPN", "start_level": 1}, {"type": "BFP"}], (0, 1, 2, 3), (1, 2, 3)),
        (None, (3,), (3,)),
    ],
)
def test_stages_that_necks_read(neck: dict | None, out_indices: tuple, expected: tuple) -> None:
    model = {"backbone": {"type": "DATAResNet", "arch": str(SMALL), "out_indices": out_indices}, "neck": neck}
    assert stages_read(ConfigDict(model)) == expected


def test_options_are_parsed_as_cfg_options(voc: Path) -> None:
    config = load(
        voc,
        "train_dataloader.dataset.datasets.0.pipeline.3.scales=[(200,96),(200,128)]",
        "param_scheduler.1.milestones=3,4",
        "optim_wrapper.optimizer.lr=1e-3",
        "load_from=a=b",
    )
    assert config.cfg.train_dataloader.dataset.datasets[0].pipeline[3].scales == [(200, 96), (200, 128)]
    assert config.cfg.param_scheduler[1].milestones == [3, 4]
    assert config.cfg.optim_wrapper.optimizer.lr == 1e-3
    assert config.cfg.load_from == "a=b"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.backbone.depht=50", "names no key"),
        ("param_scheduler.7.end=3", "names no key"),
        ("train_cfg.max_iters.x=3", "names no key"),
        ("train_cfg.max_iters", "has no value"),
        ("param_scheduler.1.milestones=[3,(4]", "cannot be read"),
    ],
)
def test_bad_options_are_refused(voc: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(voc, option)


def test_unknown_config_and_bad_files(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"known names: .*faster_rcnn_c4_voc"):
        load(voc, config="faster_rcnn_c5_voc")
    (tmp_path / "broken.py").write_text("model = dict(")
    with pytest.raises(UserError, match=r"MMDetection cannot use the config .*broken.py \(SyntaxError: "):
        MMDET.open(str(tmp_path / "broken.py"), [], voc)
    (tmp_path / "part.py").write_text("model = dict(type='FasterRCNN')")
    with pytest.raises(UserError, match="has no train_dataloader"):
        MMDetConfig(MMDET.configs.find(str(tmp_path / "part.py")), [], voc)


def test_missing_data_roots_are_refused(voc: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not in VOC layout"):
        load(tmp_path)
    shutil.copytree(voc, tmp_path / "voc")
    listing = tmp_path / "voc/VOC2007/ImageSets/Main/trainval.txt"
    listing.write_text("\n")
    with pytest.raises(UserError, match=r"trainval.txt lists no image"):
        load(tmp_path / "voc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/VOCdevkit is not a folder"):
        MMDetConfig(MMDET.configs.find("faster_rcnn_c4_voc"), [], None).images()


def test_voc2012_is_used_where_it_exists_and_missed_loudly_where_not(voc: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"VOC2012 is missing, so training uses VOC2007 alone"):
        config = MMDetConfig(MMDET.configs.find("faster_rcnn_c4_voc"), [], voc)
    (only,) = config.cfg.train_dataloader.dataset.datasets
    assert only.ann_file == "VOC2007/ImageSets/Main/trainval.txt"
    assert only.data_root == f"{voc.resolve()}/"
    devkit = tmp_path / "VOCdevkit"
    shutil.copytree(voc, devkit)
    shutil.copytree(voc / "VOC2007", devkit / "VOC2012")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config = MMDetConfig(MMDET.configs.find("faster_rcnn_c4_voc"), NO_WORKERS, tmp_path)
    assert [leaf.data_root for leaf in config.cfg.train_dataloader.dataset.datasets] == [f"{devkit.resolve()}/"] * 2
    assert len(config.images()) == 10
    assert len(DATASETS.build(config.cfg.train_dataloader.dataset)) == 10


def test_written_config_stands_alone(voc: Path, weights: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(weights, first)
    config = load(voc)
    before = config.cfg.pretty_text
    config.write(SMALL, first / PTH_FILE, first / "config.py")
    assert config.cfg.pretty_text == before
    first.rename(tmp_path / "moved")
    written = Config.fromfile(tmp_path / "moved" / "config.py")
    assert written.custom_imports.imports == ["data_plugin.backbones.mmdet"]
    assert written.model.rpn_head.in_channels == written.model.rpn_head.feat_channels == 4 * 48
    assert written.model.roi_head.bbox_roi_extractor.out_channels == 4 * 48
    assert written.model.roi_head.bbox_head.in_channels == 4 * 96
    again = MMDetConfig(MMDET.configs.find(str(tmp_path / "moved" / "config.py")), [], None)
    assert again.cfg.train_dataloader == config.cfg.train_dataloader
    runner = Runner.from_cfg(Config({**written, "work_dir": str(tmp_path / "work"), "experiment_name": "stands_alone"}))
    runner.model.init_weights()
    saved = torch.load(weights / PTH_FILE, weights_only=True)
    state = runner.model.state_dict()
    for name, value in saved.items():
        place = "roi_head.shared_head." if name.startswith("layer4.") else "backbone."
        assert torch.equal(state[place + name].cpu(), value), name


def test_an_fpn_gets_the_channels_of_the_stages_that_it_reads() -> None:
    backbone = {"type": "DATAResNet", "arch": str(Arch.resnet50()), "out_indices": (1, 2, 3)}
    model = ConfigDict(backbone=backbone, neck={"type": "FPN", "in_channels": [512, 1024, 2048]})
    set_arch(model, SMALL)
    assert model.neck.in_channels == [96, 192, 384]


def test_configs_without_our_backbone_are_refused(voc: Path) -> None:
    with pytest.raises(UserError, match=r"ResNeXt, not a plain ResNet; .* type='DATAResNet'"):
        load(voc, "model.backbone.type=ResNeXt")


# Images


def test_images_are_what_mmdets_own_loader_and_preprocessor_give(voc: Path) -> None:
    config = load(
        voc, "test_dataloader.dataset.pipeline.1.scale=(200,96)", "model.data_preprocessor.pad_size_divisor=32"
    )
    entry = copy.deepcopy(config.cfg.train_dataloader.dataset.datasets[0])
    entry.update(pipeline=config.cfg.test_dataloader.dataset.pipeline, test_mode=True)
    loader = Runner.build_dataloader({**config.cfg.test_dataloader, "batch_size": 2, "dataset": entry})
    preprocessor = MODELS.build(config.cfg.model.data_preprocessor)
    images = config.images()
    assert len(images) == 5
    batches = ImageBatches(images, [[0, 1], [2, 3], [4]])
    for _ in range(2):  # a second pass starts again
        for found, data in zip(batches, loader, strict=True):
            expected = preprocessor(data, False)
            assert torch.equal(found.images, expected["inputs"])
            assert found.images.shape[-2:] == (96, 160)
            assert (
                list(found.sizes)
                == [sample.img_shape for sample in expected["data_samples"]]
                == [(96, 144)] * len(data["inputs"])
            )
            assert list(found.names) == [Path(sample.img_path).name for sample in expected["data_samples"]]


def test_images_are_rgb_and_normalised(voc: Path) -> None:
    from PIL import Image

    config = load(voc, "test_dataloader.dataset.pipeline.1.scale=(96,64)")
    batch = next(iter(draw_batches(config.images(), None, 1, seed=0)))
    pixels = np.asarray(Image.open(voc / "VOC2007/JPEGImages" / batch.names[0]).convert("RGB"), dtype=np.float32)
    form = config.input_format
    expected = torch.from_numpy((pixels - np.float32(form.mean)) / np.float32(form.std)).permute(2, 0, 1)
    torch.testing.assert_close(batch.images[0], expected, atol=0.04, rtol=0)  # two JPEG decoders


def test_images_need_no_annotation(voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc, tmp_path / "voc")
    shutil.rmtree(tmp_path / "voc/VOC2007/Annotations")
    images = load(tmp_path / "voc").images()
    listed = (voc / "VOC2007/ImageSets/Main/trainval.txt").read_text().split()
    assert images.names == [f"{name}.jpg" for name in listed]
    assert images[4].pixels.shape == (3, 800, 1200)


def test_a_data_set_of_videos_is_refused(voc: Path, monkeypatch) -> None:
    monkeypatch.setattr(UnlabelledVOCDataset, "get_data_info", lambda images, index: {"images": []})
    with pytest.raises(UserError, match="UnlabelledVOCDataset holds videos; expected one of single images"):
        load(voc).images()


def test_repeated_data_sets_give_each_image_once(voc: Path) -> None:
    config = load(voc)
    loader = config.cfg.train_dataloader
    loader.dataset = ConfigDict(type="RepeatDataset", times=3, dataset=loader.dataset)
    assert len(config.images()) == 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_unreadable_images_are_named(voc: Path, tmp_path: Path, damage: str, workers: int) -> None:
    shutil.copytree(voc, tmp_path / "voc")
    path = tmp_path / "voc/VOC2007/JPEGImages/000003.jpg"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-500] if damage == "truncated" else b"no image")
    config = load(tmp_path / "voc", f"test_dataloader.num_workers={workers}")
    words = "00003.jpg is missing" if damage == "missing" else "00003.jpg cannot be read as an image"
    with pytest.raises(UserError, match=words) as caught:
        list(draw_batches(config.images(), None, 2, 0))
    assert "\n" not in str(caught.value)
