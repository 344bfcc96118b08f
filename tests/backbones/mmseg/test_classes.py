"""Data in Cityscapes' layout with classes and labels of its own in MMSegmentation, from the config to a segmenter."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

import mmseg
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from processes import in_processes, run_script

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmseg.config import MMSegConfig
from data_plugin.backbones.mmseg.heads import set_classes
from data_plugin.frameworks.registry import MMSEG
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.tools import finetune_seg, search_seg

ARCH = Arch.parse("d1-1-1-1_w8-8-8-8-16")
LABELS = {"road": 4, "tall building": 30, "sky": 1, "car": 100}
"""The label of each class in the files; 1 is another class's number once they are counted from 0."""

BY_LABEL = ("sky", "road", "tall building", "car")
TINY = [
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "train_dataloader.dataset.pipeline.2.scale=(96,64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(48,48)",
    "val_dataloader.dataset.pipeline.1.scale=(96,64)",
    "model.data_preprocessor.size=(48,48)",
    "model.test_cfg.mode=whole",
    "model.decode_head.channels=8",
    "model.auxiliary_head.channels=8",
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
]
STRIPES = [*LABELS.values(), 255]
"""The labels of every image from left to right, 16 pixels each."""


def draw(root: Path, ending: str = "_gtFine_labelTrainIds.png", classes: str | None = None) -> Path:
    """Images of a stripe a class and one without label, in two folders of cities."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.array(STRIPES, dtype=np.uint8), 16)[None].repeat(48, axis=0)
    for split, cities in (("train", ("aa", "b")), ("val", ("aa",))):
        for city in cities:
            images, labels = (root / folder / split / city for folder in ("leftImg8bit", "gtFine"))
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for name in (f"{city}_1", f"{city}_11"):
                pixels = (label[..., None] + rng.integers(0, 50, (*label.shape, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(images / f"{name}_leftImg8bit.png")
                Image.fromarray(label).save(labels / f"{name}{ending}")
    listed = "\n".join(f"{label} {name}" for name, label in LABELS.items()) if classes is None else classes
    (root / "classes.txt").write_text(listed, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("own"))


def load(
    root: Path | None, *options: str, config: str | Path = "fcn_d8_cityscapes", classes: Sequence[str] | None = None
) -> MMSegConfig:
    return MMSegConfig(MMSEG.configs.find(str(config)), options, root, classes)


def written(folder: Path, config: MMSegConfig) -> Path:
    save_backbone(folder, DATAResNet(ARCH))
    config.write(ARCH, folder / PTH_FILE, folder / "winner.py")
    return folder / "winner.py"


def stripes(config: MMSegConfig, loader: str) -> list[list[str | None]]:
    """The names of the classes of every image's stripes, as the framework's own loader labels them."""
    entry = {**config.cfg[loader].dataset, "pipeline": [{"type": "LoadAnnotations"}]}
    with DefaultScope.overwrite_default_scope("mmseg"):
        images = DATASETS.build(entry)
    names = dict(enumerate(images.metainfo["classes"])) | {255: None}
    maps = [images[index]["gt_seg_map"] for index in range(len(images))]
    for each in maps:
        np.testing.assert_array_equal(each, each[:1, ::16].repeat(16, axis=1).repeat(48, axis=0))
    return [[names[label] for label in each[0, ::16]] for each in maps]


def test_a_written_config_labels_every_pixel_by_its_class(data: Path, tmp_path: Path) -> None:
    again = load(None, config=written(tmp_path, load(data)))
    assert again.cfg.model.decode_head.num_classes == again.cfg.model.auxiliary_head.num_classes == len(LABELS)
    for loader, count in (("train_dataloader", 4), ("val_dataloader", 2), ("test_dataloader", 2)):
        assert tuple(again.cfg[loader].dataset.metainfo.classes) == BY_LABEL
        assert stripes(again, loader) == [[*LABELS, None]] * count


def test_names_alone_are_of_the_labels_from_0(tmp_path: Path) -> None:
    names = [f"class {label}" for label in range(101)]
    config = load(draw(tmp_path / "data", classes="\n".join(names)))
    assert config.cfg.model.decode_head.num_classes == 101
    assert stripes(config, "val_dataloader") == [[*(f"class {label}" for label in LABELS.values()), None]] * 2


@pytest.mark.parametrize("left_out", ["left out", "none"])
def test_named_classes_pick_and_order(data: Path, tmp_path: Path, left_out: str) -> None:
    classes = ("car", "sky", "tall building") if left_out == "left out" else ("car", "sky", "tall building", "road")
    if left_out == "left out":
        with pytest.warns(UserWarning, match="pixels of the classes road of .*classes.txt .* count as not labelled"):
            config = load(data, classes=classes)
    else:
        config = load(data, classes=classes)
    again = load(None, config=written(tmp_path, config))
    assert tuple(again.cfg.val_dataloader.dataset.metainfo.classes) == classes
    assert again.cfg.model.decode_head.num_classes == len(classes)
    expected = [name if name in classes else None for name in LABELS]
    assert stripes(again, "val_dataloader") == [[*expected, None]] * 2
    assert tuple(load(data, config=tmp_path / "winner.py", classes=BY_LABEL).cfg.val_dataloader.dataset.label_ids) == (
        1,
        4,
        30,
        100,
    )


def test_a_class_that_is_not_listed_is_refused(data: Path, tmp_path: Path, capsys) -> None:
    message = r"classes.txt lists no class 'lorry', .* \(sky, road, tall building, car\), or give --classes"
    with pytest.raises(UserError, match=message):
        load(data, classes=["sky", "lorry"])
    arguments = ["--config", "fcn_d8_cityscapes", "--data-root", str(data), "--classes", "sky, lorry"]
    for tool in (search_seg, finetune_seg):
        assert tool.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert "lists no class 'lorry'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_list_named_classes_are_those_of_the_labels_from_0(drawn_cityscapes: Path) -> None:
    names = [f"own {label}" for label in range(14)]
    config = load(drawn_cityscapes, classes=names)
    assert config.cfg.model.decode_head.num_classes == 14
    config._require_labels("val_dataloader")
    with pytest.raises(UserError, match=r"has the label 13; .* has 0, 1, 2"):
        load(drawn_cityscapes, classes=names[:13])._require_labels("val_dataloader")


def test_cityscapes_nineteen_stay(drawn_cityscapes: Path) -> None:
    config = load(drawn_cityscapes).cfg
    assert config.model.decode_head.num_classes == 19
    assert config.val_dataloader.dataset.type == "CityscapesDataset"
    assert "metainfo" not in config.val_dataloader.dataset


def test_labels_of_another_ending_are_found(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"val holds label files that end in _labels.png, where the config has _gtF"):
        config = load(draw(tmp_path / "data", "_labels.png"))
    assert stripes(config, "train_dataloader") == [[*LABELS, None]] * 4


def test_labels_of_several_endings_or_of_none_are_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "_labels.png")
    draw(tmp_path / "more", "_instances.png")
    for path in (tmp_path / "more" / "gtFine").rglob("*.png"):
        path.rename(root / path.relative_to(tmp_path / "more"))
    with pytest.raises(
        UserError, match=r"train has several kinds .*: they end in _instances.png, _labels.png; expected"
    ):
        load(root)
    for path in (root / "gtFine" / "train" / "aa").glob("*.png"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"train has no label files for the images of .*; expected files that end in _gt"
    ):
        load(root)


def test_a_search_needs_no_labels(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    (root / "gtFine").rename(tmp_path / "elsewhere")
    assert len(load(root, "test_dataloader.num_workers=0").images().names) == 4


@pytest.mark.parametrize("label", [0, 2, 77])
def test_labels_that_are_not_listed_are_named(data: Path, tmp_path: Path, label: int, capsys) -> None:
    root = draw(tmp_path / "data")
    path = root / "gtFine" / "val" / "aa" / "aa_11_gtFine_labelTrainIds.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 5] = label
    Image.fromarray(pixels).save(path)
    arguments = ["--config", "fcn_d8_cityscapes", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert finetune_seg.main([*arguments, "--opts", *TINY]) == 2
    expected = f"{path} has the label {label}; classes.txt has 1, 4, 30, 100, and 255 for what is not labelled"
    assert expected in capsys.readouterr().err
    if label < len(LABELS):  # whoever does not check the labels must not take it for the class of that number
        entry = {**load(root).cfg.val_dataloader.dataset, "pipeline": [{"type": "LoadAnnotations"}]}
        with DefaultScope.overwrite_default_scope("mmseg"):
            by_path = {each["seg_map_path"]: each["gt_seg_map"] for each in DATASETS.build(entry)}
        assert by_path[str(path)][3, 5] == 255


def test_labels_of_another_size_than_their_image_are_named_and_counted(tmp_path: Path, capsys) -> None:
    root = draw(tmp_path / "data")
    paths = sorted((root / "gtFine" / "train").rglob("*.png"))[1:]
    for path in paths:
        with Image.open(path) as image:
            label = image.resize((40, 48), Image.Resampling.NEAREST)
        label.save(path)
    arguments = ["--config", "fcn_d8_cityscapes", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert finetune_seg.main([*arguments, "--opts", *TINY]) == 2
    expected = f"{paths[0]} has 40x48 pixels where its image has 80x48, the first of 3 such label files; expected"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_of_a_turned_photograph_are_those_of_the_image_as_it_is_shown(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by a quarter to the right
    for path in (root / "leftImg8bit").rglob("*.png"):
        with Image.open(path) as image:
            turned = image.rotate(90, expand=True)
        turned.save(path, exif=exif)
    config = load(root)
    config._require_labels("train_dataloader")
    entry = {**config.cfg.train_dataloader.dataset, "pipeline": [{"type": "LoadImageFromFile"}]}
    with DefaultScope.overwrite_default_scope("mmseg"):
        assert DATASETS.build(entry)[0]["img"].shape == (48, 80, 3)


def test_labels_that_are_a_few_of_cityscapes_may_be_other_classes(drawn_cityscapes: Path) -> None:
    config = load(drawn_cityscapes)
    words = r"of the 19 classes of CityscapesDataset .* have road, building, vegetation, sky, car alone; .*/classes.txt"
    with pytest.warns(UserWarning, match=words):
        config._require_labels("train_dataloader")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config._require_labels("val_dataloader")
        load(drawn_cityscapes, classes=[f"own {label}" for label in range(14)])._require_labels("train_dataloader")


@pytest.mark.parametrize("contents", [b"", b"road\nroad\n", b"1 road\n1 sky\n", b"1 road\n300 sky\n", b"\xc4ste\n"])
def test_bad_lists_end_the_tools_with_one_sentence(tmp_path: Path, contents: bytes, capsys) -> None:
    root = draw(tmp_path / "data")
    (root / "classes.txt").write_bytes(contents)
    arguments = ["--config", "fcn_d8_cityscapes", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert search_seg.main([*arguments, "--supernet", "shipped"]) == 2
    assert finetune_seg.main(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert all("classes.txt" in line for line in errors)
    assert not (tmp_path / "out").exists()


# Heads


def test_every_head_and_what_weights_its_classes_follows() -> None:
    model = ConfigDict(
        decode_head=[
            {"num_classes": 19, "loss_decode": [{"class_weight": [1.0] * 19}, {"class_weight": None}]},
            {"num_classes": 19, "loss_cls": {"class_weight": [1.0] * 19 + [0.1]}, "sub": {"num_classes": 19}},
        ],
        auxiliary_head={"num_classes": 19, "num_convs": 3},
    )
    set_classes(model, 2)
    first, last = model.decode_head
    assert (first.num_classes, first.loss_decode[0].class_weight) == (2, [1.0, 1.0])
    assert (last.num_classes, last.loss_cls.class_weight, last["sub"].num_classes) == (2, [1.0, 1.0, 0.1], 2)
    assert (model.auxiliary_head.num_classes, model.auxiliary_head.num_convs) == (2, 3)


def test_heads_that_weight_classes_differently_are_refused() -> None:
    loss = {"class_weight": [1.0, 2.0, 3.0]}
    with pytest.raises(UserError, match=r"model.decode_head weights its 3 classes differently .*, and the data have 2"):
        set_classes(ConfigDict(decode_head={"num_classes": 3, "loss_decode": loss}), 2)


# Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    path = written(folder, load(data))
    load(None, *TINY, config=path).finetune(folder / "out")
    return path


def test_the_checkpoint_has_the_classes_and_a_colour_for_each(trained: Path, data: Path) -> None:
    state = torch.load(trained.parent / "out" / "iter_2.pth", weights_only=False)  # written by this test
    assert len(state["state_dict"]["decode_head.conv_seg.weight"]) == len(LABELS)
    assert tuple(state["meta"]["dataset_meta"]["classes"]) == BY_LABEL
    with DefaultScope.overwrite_default_scope("mmseg"):
        again = DATASETS.build({**load(data).cfg.train_dataloader.dataset, "pipeline": []}).metainfo["palette"]
    assert state["meta"]["dataset_meta"]["palette"] == again
    assert len(set(map(tuple, again))) == len(LABELS)


def test_every_class_is_scored_by_its_name(trained: Path, monkeypatch) -> None:
    from mmseg.models.segmentors import EncoderDecoder

    def predict(self, inputs, samples):
        for sample in samples:
            found = sample.gt_sem_seg.data.clone()
            found[found == BY_LABEL.index("car")] = BY_LABEL.index("road")
            sample.pred_sem_seg = PixelData(data=found)
        return samples

    monkeypatch.setattr(EncoderDecoder, "predict", predict)
    out = trained.parent / "out"
    before = set(out.rglob("*.log"))
    figures = load(None, *TINY, config=trained).finetune(out, eval_only=True)
    assert figures == pytest.approx({"mIoU": (100 + 50 + 100 + 0) / 4, "aAcc": 75, "mAcc": 75})
    (log,) = set(out.rglob("*.log")) - before
    rows = re.findall(r"^\| +([a-z ]+?) +\| +([\d.]+) ", log.read_text(), re.M)
    assert rows == [("sky", "100.0"), ("road", "50.0"), ("tall building", "100.0"), ("car", "0.0")]


@pytest.mark.slow
def test_the_written_config_trains_with_mmsegs_own_launcher(data: Path, tmp_path: Path) -> None:
    path = written(tmp_path, load(data))
    launcher = Path(mmseg.__file__).parent / ".mim/tools/train.py"
    workers = [f"{name}_dataloader.persistent_workers=False" for name in ("train", "val")]
    command = [launcher, path, "--work-dir", tmp_path / "out", "--cfg-options", *TINY, *workers]
    said = in_processes(tmp_path, 1, run_script, *command)
    assert all(f" {name} " in said for name in LABELS)
