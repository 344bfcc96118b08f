"""The MMSegmentation adapter against MMSegmentation itself: networks, configs and images."""

import copy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import used

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

import mmseg
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.apis import inference_model, init_model
from mmseg.models.backbones import ResNet
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmseg.config import MMSegConfig
from data_plugin.backbones.openmmlab.swap import replace_resnet, stages_read
from data_plugin.frameworks.registry import MMSEG
from data_plugin.images.batch import ImageBatches, draw_batches
from data_plugin.images.input_format import InputFormat
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

SMALL = Arch.parse("d1-2-3-2_w8-12-24-48-96")
OS8 = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}
OS16 = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}
BATCH_NORM = {"type": "BN", "requires_grad": True}
NO_WORKERS = [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]


@pytest.fixture(autouse=True)
def _default_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def load(root: Path, *options: str, config: str = "fcn_d8_cityscapes") -> MMSegConfig:
    return MMSegConfig(MMSEG.configs.find(config), [*NO_WORKERS, *options], root)


# The backbone


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**OS8, "contract_dilation": True},
        {**OS8, "contract_dilation": True, "with_cp": True, "frozen_stages": 1},
        {**OS16, "contract_dilation": True, "out_indices": (1, 3)},
        {**OS8, "norm_eval": True, "in_channels": 5, "zero_init_residual": False},
    ],
)
def test_resnet50_equals_mmsegs_features_and_gradients(options: dict) -> None:
    ours = used(MODELS.build({"type": "DATAResNet", "arch": str(Arch.resnet50()), **options}))
    theirs = ResNet(50, **options)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, options.get("in_channels", 3), 65, 49, requires_grad=True)
    for model in (ours, theirs):
        model.train()
    assert norms_in_training(ours) == norms_in_training(theirs)
    found, expected = ours(images), theirs(images)
    assert len(found) == len(expected)
    for ours_feature, theirs_feature in zip(found, expected, strict=True):
        assert theirs_feature.std() > 0
        torch.testing.assert_close(ours_feature, theirs_feature)
    found[-1].square().mean().backward()
    expected[-1].square().mean().backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


def norms_in_training(model: torch.nn.Module) -> dict[str, bool]:
    norm = torch.nn.modules.batchnorm._BatchNorm
    return {name: module.training for name, module in model.named_modules() if isinstance(module, norm)}


@pytest.mark.parametrize("option", [{"deep_stem": True}, {"avg_down": True}, {"multi_grid": (1, 2, 4)}])
def test_options_that_would_change_the_layers_are_refused(option: dict) -> None:
    with pytest.raises(UserError, match=f"cannot honour {next(iter(option))}="):
        MODELS.build({"type": "DATAResNet", "arch": SMALL, **option})


@pytest.mark.parametrize("autocast", [False, True])
def test_fcn_d8_losses_equal_those_of_the_stock_resnet50(autocast: bool, drawn_cityscapes: Path) -> None:
    config = load(drawn_cityscapes).cfg.model
    config.backbone.norm_cfg = config.decode_head.norm_cfg = config.auxiliary_head.norm_cfg = BATCH_NORM
    config.decode_head.channels = config.auxiliary_head.channels = 16
    config.data_preprocessor.size = size = (32, 48)
    stock = copy.deepcopy(config)
    stock.backbone = ConfigDict(
        type="ResNet", depth=50, **OS8, contract_dilation=True, norm_cfg=BATCH_NORM, norm_eval=False, style="pytorch"
    )
    ours, theirs = MODELS.build(config).train(), MODELS.build(stock).train()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    data = {"inputs": [torch.randint(0, 256, (3, *size), dtype=torch.uint8)] * 2}
    data["data_samples"] = labelled(2, size)
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(0)  # dropout
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses.append(model(**model.data_preprocessor(copy.deepcopy(data), True), mode="loss"))
        sum(value for name, value in losses[-1].items() if "loss" in name).backward()
    assert losses[0].keys() == losses[1].keys() >= {"decode.loss_ce", "aux.loss_ce"}
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], msg=name)
    torch.testing.assert_close(ours.backbone.conv1.weight.grad, theirs.backbone.conv1.weight.grad)


def labelled(count: int, size: tuple[int, int] = (64, 96), classes: int = 19) -> list[SegDataSample]:
    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size)))
        samples.append(sample)
    return samples


# Configs


def test_recipe_says_what_the_model_reads_and_how(drawn_cityscapes: Path) -> None:
    config = load(drawn_cityscapes)
    assert config.taps == ("C4", "C5")
    assert config.input_format == InputFormat.imagenet()
    assert config.resolution == Resolution(**OS8, contract_dilation=True)
    assert config.cfg.train_cfg.max_iters == config.cfg.param_scheduler[0].end == 40000
    assert (
        config.cfg.model.test_cfg.crop_size == config.cfg.train_dataloader.dataset.pipeline[3].crop_size == (769, 769)
    )


def test_the_recipe_is_mmsegs_own_but_for_the_stem_and_the_batch(drawn_cityscapes: Path) -> None:
    zoo = Path(mmseg.__file__).parent / ".mim/configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py"
    theirs, ours = Config.fromfile(zoo), load(drawn_cityscapes)
    for name in ("decode_head", "auxiliary_head", "test_cfg", "data_preprocessor"):
        assert ours.cfg.model[name] == theirs.model[name], name
    shared = ("strides", "dilations", "contract_dilation", "norm_cfg", "norm_eval", "out_indices")
    assert {key: ours.cfg.model.backbone[key] for key in shared} == {key: theirs.model.backbone[key] for key in shared}
    assert ours.cfg.train_dataloader.dataset.pipeline == theirs.train_dataloader.dataset.pipeline
    assert ours.cfg.val_dataloader.dataset.pipeline == theirs.val_dataloader.dataset.pipeline
    assert ours.cfg.optim_wrapper == theirs.optim_wrapper
    assert ours.cfg.param_scheduler == theirs.param_scheduler
    assert ours.cfg.train_cfg == theirs.train_cfg


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"decode_head": {"in_channels": 384, "in_index": 3}}, (3,)),
        ({"decode_head": {"in_channels": 384, "in_index": -1}, "auxiliary_head": None}, (3,)),
        ({"decode_head": {"in_channels": 384}}, (3,)),
        ({"decode_head": {"in_channels": [48, 96, 192, 384], "in_index": [0, 1, 2, 3]}}, (0, 1, 2, 3)),
        (
            {
                "decode_head": {"in_channels": [96, 384], "in_index": [1, 3]},
                "auxiliary_head": [{"in_channels": 192, "in_index": 2}, {"in_channels": 96, "in_index": 1}],
            },
            (1, 2, 3),
        ),
        (
            {"decode_head": [{"in_channels": 192, "in_index": 2}, {"in_channels": 384, "in_index": 3}]},
            (2, 3),
        ),
        ({"decode_head": {"in_channels": 384, "in_index": 3, "c1_in_channels": 48}}, (0, 3)),
        (
            {
                "neck": {"type": "FPN", "in_channels": [48, 96, 192, 384], "num_outs": 4},
                "decode_head": {"in_channels": [8] * 4, "in_index": [0, 1, 2, 3]},
            },
            (0, 1, 2, 3),
        ),
    ],
)
def test_stages_that_heads_and_necks_read(model: dict, expected: tuple) -> None:
    backbone = {"type": "DATAResNet", "arch": str(SMALL)}
    assert stages_read(ConfigDict(backbone=backbone, **model)) == expected


def test_stages_count_in_the_backbones_outputs() -> None:
    backbone = {"type": "DATAResNet", "arch": str(SMALL), "out_indices": (1, 3)}
    heads = {"decode_head": {"in_channels": 384, "in_index": 1}, "auxiliary_head": {"in_channels": 96, "in_index": 0}}
    assert stages_read(ConfigDict(backbone=backbone, **heads)) == (1, 3)


def test_the_supernet_computes_what_the_written_configs_model_reads(drawn_cityscapes: Path, tmp_path: Path) -> None:
    space = SearchSpace.micro()
    supernet = DynamicResNet(space).eval()
    config = load(drawn_cityscapes)
    options = config.resolution.options()
    arch = next(iter(space.sample(1, 3)))
    save_backbone(tmp_path, extract(supernet, arch, **options))
    config.write(arch, tmp_path / PTH_FILE, tmp_path / "config.py")
    model = MODELS.build(Config.fromfile(tmp_path / "config.py").model)
    model.init_weights()
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        found = supernet.with_options(**options)(images, arch)
        expected = model.eval().extract_feat(images)
        at_stride_32 = supernet(images, arch)
    assert [tuple(feature.shape[-2:]) for feature in found] == [(17, 25), (9, 13), (9, 13), (9, 13)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert at_stride_32[3].shape[-2:] == (3, 4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_backbone(folder, used(DATAResNet(SMALL)))
    return folder


def test_written_config_stands_alone_and_segments(drawn_cityscapes: Path, weights: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(weights, first)
    options = ["test_dataloader.dataset.pipeline.1.scale=(96,64)", "model.test_cfg.mode=whole"]
    config = load(drawn_cityscapes, *options)
    before = config.cfg.pretty_text
    config.write(SMALL, first / PTH_FILE, first / "config.py")
    assert config.cfg.pretty_text == before
    first.rename(tmp_path / "moved")
    written = Config.fromfile(tmp_path / "moved" / "config.py")
    assert written.custom_imports.imports == ["data_plugin.backbones.mmseg"]
    assert written.model.decode_head.in_channels == 4 * 96
    assert written.model.auxiliary_head.in_channels == 4 * 48
    again = MMSegConfig(MMSEG.configs.find(str(tmp_path / "moved" / "config.py")), [], None)
    assert again.cfg.train_dataloader == config.cfg.train_dataloader
    runner = Runner.from_cfg(Config({**written, "work_dir": str(tmp_path / "work"), "experiment_name": "stands_alone"}))
    runner.model.init_weights()
    state = runner.model.state_dict()
    saved = torch.load(weights / PTH_FILE, weights_only=True)
    for name, value in saved.items():
        assert torch.equal(state[f"backbone.{name}"].cpu(), value), name
    torch.save(
        {"state_dict": state, "meta": {"dataset_meta": runner.train_dataloader.dataset.metainfo}}, tmp_path / "s"
    )
    segmenter = init_model(str(tmp_path / "moved" / "config.py"), str(tmp_path / "s"), device="cpu")
    image = next((drawn_cityscapes / "leftImg8bit/val").rglob("*.png"))
    prediction = inference_model(segmenter, str(image)).pred_sem_seg.data
    assert prediction.shape == (1, 64, 96)
    assert 0 <= prediction.min() <= prediction.max() <= 18


ZOO = {
    "fcn_r50b-d8_4xb2-80k_cityscapes-512x1024": ("C4", "C5"),  # a plain stem, as in all *b-*; the others have V1c's
    "fcn-d6_r50-d16_4xb2-40k_cityscapes-769x769": ("C4", "C5"),
    "pspnet_r101b-d8_4xb2-80k_cityscapes-512x1024": ("C4", "C5"),
    "encnet_r50-d8_4xb2-40k_cityscapes-512x1024": ("C3", "C4", "C5"),
    "deeplabv3plus_r50b-d8_4xb2-80k_cityscapes-512x1024": ("C2", "C4", "C5"),
    "upernet_r50_4xb2-40k_cityscapes-512x1024": ("C2", "C3", "C4", "C5"),
    "ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024": ("C4", "C5"),
    "fpn_r50_4xb2-80k_cityscapes-512x1024": ("C2", "C3", "C4", "C5"),
    "fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024": ("C3", "C4", "C5"),
}


@pytest.mark.parametrize("name", ZOO)
def test_zoo_configs_train_a_searched_network(name: str, drawn_cityscapes: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*a stem of three 3x3 convolutions.* left out")
        config = load(drawn_cityscapes, config=name)
    assert config.taps == ZOO[name]
    save_backbone(tmp_path, DATAResNet(SMALL))
    config.write(SMALL, tmp_path / PTH_FILE, tmp_path / "config.py")
    written = Config.fromfile(tmp_path / "config.py").model
    for head in (written.decode_head, written.get("auxiliary_head")):
        for each in head if isinstance(head, list) else [head] if head else []:
            each.update(norm_cfg=BATCH_NORM)
    model = MODELS.build(written)
    model.init_weights()
    saved = torch.load(tmp_path / PTH_FILE, weights_only=True)
    assert torch.equal(model.backbone.conv1.weight, saved["conv1.weight"])
    model.data_preprocessor.size = (64, 96)
    data = {"inputs": [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)] * 2, "data_samples": labelled(2)}
    losses = model.train()(**model.data_preprocessor(data, True), mode="loss")
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(value.grad is not None for value in model.backbone.parameters())


def test_a_deep_stem_becomes_the_supernets_and_says_so(drawn_cityscapes: Path) -> None:
    said = r"ResNetV1c has a stem of three 3x3 .* the supernet's 7x7, .*open-mmlab://resnet50_v1c.* left out$"
    with pytest.warns(UserWarning, match=said):
        config = load(drawn_cityscapes, config="fcn_r50-d8_4xb2-40k_cityscapes-512x1024")
    assert config.cfg.model.pretrained is config.cfg.model.backbone.init_cfg is None
    assert MODELS.build(config.cfg.model.backbone).conv1.kernel_size == (7, 7)


def test_weights_that_fit_the_plain_stem_are_kept(drawn_cityscapes: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load(drawn_cityscapes, config="fcn_r50b-d8_4xb2-80k_cityscapes-512x1024")
    assert config.cfg.model.pretrained is None
    assert config.cfg.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}


def test_a_stem_of_three_convolutions_is_meant_under_either_name() -> None:
    options = {"depth": 50, **OS8, "norm_cfg": BATCH_NORM}
    replaced = []
    for entry in ({"type": "ResNetV1c"}, {"type": "ResNet", "deep_stem": True}, {"type": "mmseg.ResNetV1c"}):
        config = Config({"model": {"backbone": {**entry, **options}, "decode_head": {"in_channels": 2048}}})
        with pytest.warns(UserWarning, match="has the supernet's 7x7$"):  # there are no weights to leave out
            replace_resnet(config, MODELS)
        replaced.append(config.model.backbone)
    assert replaced[0] == replaced[1] == replaced[2]
    assert replaced[0].strides == OS8["strides"]


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("name", "option", "dilations"),
    [
        ("fcn_r18-d8_4xb2-80k_cityscapes-512x1024", "depth=50", (1, 1, 2, 4)),
        ("deeplabv3_r101-d16-mg124_4xb2-40k_cityscapes-512x1024", "multi_grid=None", (1, 1, 1, 2)),
    ],
)
def test_the_option_that_makes_a_refused_config_plain_helps(
    name: str, option: str, dilations: tuple, drawn_cityscapes: Path
) -> None:
    with pytest.raises(UserError, match=option.split("=")[0]):
        load(drawn_cityscapes, config=name)
    config = load(drawn_cityscapes, f"model.backbone.{option}", config=name)
    assert config.cfg.model.decode_head.in_channels == 2048
    assert config.cfg.model.backbone.dilations == dilations


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"type": "ResNetV1d", "depth": 50}, "ResNetV1d, whose shortcuts average .* model.backbone.type=ResNet"),
        ({"type": "ResNetV1c", "depth": 50, "avg_down": True}, "cannot honour avg_down=True"),
        ({"type": "ResNetV1c", "depth": 50, "multi_grid": (1, 2, 4)}, "cannot honour multi_grid="),
        ({"type": "ResNetV1c", "depth": 18}, "depth=18, .* give the option model.backbone.depth=50"),
        ({"type": "ResNeXt", "depth": 50}, "backbone is ResNeXt, not a plain ResNet"),
        ({"type": "ICNet", "backbone_cfg": {"type": "ResNetV1c"}}, "backbone is ICNet, not a plain ResNet"),
    ],
)
def test_what_is_no_plain_resnet_is_refused(backbone: dict, message: str) -> None:
    config = Config({"model": {"backbone": backbone, "decode_head": {"in_channels": 2048}}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=message) as caught:
            replace_resnet(config, MODELS)
    assert "\n" not in str(caught.value)


# Bad input


def test_unknown_config_and_bad_options(drawn_cityscapes: Path) -> None:
    with pytest.raises(UserError, match="fcn_d8_cityscapes"):
        load(drawn_cityscapes, config="fcn_d9_cityscape")
    with pytest.raises(UserError, match="names no key"):
        load(drawn_cityscapes, "model.backbone.depht=50")


def test_missing_data_is_named(drawn_cityscapes: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"nowhere/leftImg8bit/train is missing; .* gtFine and leftImg8bit"):
        load(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/cityscapes/leftImg8bit/train is missing"):
        load(None).images()
    shutil.copytree(drawn_cityscapes, tmp_path / "c")
    for image in (tmp_path / "c/leftImg8bit/val").rglob("*.png"):
        image.unlink()
    with pytest.raises(UserError, match=r"leftImg8bit/val has no image whose name ends in _leftImg8bit.png or"):
        load(tmp_path / "c")


def test_jpeg_images_are_found_and_named(drawn_cityscapes: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn_cityscapes, tmp_path / "c")
    for image in list((tmp_path / "c/leftImg8bit").rglob("*.png")):
        Image.open(image).save(image.with_suffix(".jpg"))
    with pytest.raises(UserError, match="several kinds of images"):
        load(tmp_path / "c")
    for image in (tmp_path / "c/leftImg8bit").rglob("*.png"):
        image.unlink()
    with pytest.warns(UserWarning, match=r"end in _leftImg8bit.jpg, where Cityscapes has .png"):
        config = load(tmp_path / "c")
    assert len(DATASETS.build(config.cfg.train_dataloader.dataset)) == 4
    assert len(DATASETS.build(config.cfg.val_dataloader.dataset)) == 2
    assert len(config.images()) == 4


# Images


def test_images_are_what_mmsegs_own_loader_and_preprocessor_give(drawn_cityscapes: Path) -> None:
    config = load(drawn_cityscapes, "test_dataloader.dataset.pipeline.1.scale=(192,128)")
    entry = copy.deepcopy(config.cfg.train_dataloader.dataset)
    entry.update(pipeline=config.cfg.test_dataloader.dataset.pipeline, test_mode=True)
    loader = Runner.build_dataloader({**config.cfg.test_dataloader, "batch_size": 2, "dataset": entry})
    preprocessor = MODELS.build(config.cfg.model.data_preprocessor)
    images = config.images()
    assert len(images) == 4
    batches = ImageBatches(images, [[0, 1], [2, 3]])
    for _ in range(2):  # a second pass starts again
        for found, data in zip(batches, loader, strict=True):
            expected = preprocessor(data, False)
            assert torch.equal(found.images, expected["inputs"])
            assert found.images.shape == (2, 3, 128, 192)
            assert list(found.sizes) == [sample.img_shape for sample in expected["data_samples"]] == [(128, 192)] * 2
            assert list(found.names) == [Path(sample.img_path).name for sample in expected["data_samples"]]


def test_images_are_rgb_normalised_and_need_no_labels(drawn_cityscapes: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn_cityscapes / "leftImg8bit", tmp_path / "leftImg8bit")
    config = load(tmp_path, "test_dataloader.dataset.pipeline.1.scale=(96,64)")
    batch = next(iter(draw_batches(config.images(), None, 1, seed=0)))
    (path,) = (tmp_path / "leftImg8bit/train").rglob(batch.names[0])
    pixels = np.asarray(Image.open(path), dtype=np.float32)
    form = config.input_format
    expected = torch.from_numpy((pixels - np.float32(form.mean)) / np.float32(form.std)).permute(2, 0, 1)
    torch.testing.assert_close(batch.images[0], expected)


def test_images_of_several_sizes_are_padded(drawn_cityscapes: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn_cityscapes, tmp_path / "c")
    path = sorted((tmp_path / "c/leftImg8bit/train").rglob("*.png"))[0]
    Image.open(path).crop((0, 0, 64, 64)).save(path)
    config = load(tmp_path / "c", "test_dataloader.dataset.pipeline.1.scale=(96,64)")
    images = config.images()
    whole, alone = (list(ImageBatches(images, parts)) for parts in ([[0, 1]], [[0], [1]]))
    assert list(whole[0].sizes) == [(64, 64), (64, 96)]
    assert torch.equal(whole[0].images[0, :, :, :64], alone[0].images[0])
    assert not whole[0].images[0, :, :, 64:].any()
    assert torch.equal(whole[0].images[1], alone[1].images[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named(drawn_cityscapes: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(drawn_cityscapes, tmp_path / "c")
    path = sorted((tmp_path / "c/leftImg8bit/train").rglob("*.png"))[2]
    path.write_bytes(path.read_bytes()[:-500])
    config = load(tmp_path / "c", f"test_dataloader.num_workers={workers}")
    with pytest.raises(UserError, match=r"000002_leftImg8bit.png cannot be read as an image"):
        list(draw_batches(config.images(), None, 2, 0))
