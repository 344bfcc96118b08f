"""Unlabelled images through detectron2's mapper and its models' preprocessing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.modeling import build_model

from data_plugin import UserError
from data_plugin.backbones.detectron2 import Detectron2Config
from data_plugin.frameworks.registry import DETECTRON2, MMDET
from data_plugin.images.batch import ImageSource, draw_batches

QUICK = [
    "MODEL.DATA_RESNET.ARCH=d1-1-1-1_w8-8-8-8-8",
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
]

pytestmark = pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT", "ignore:DATAResNet takes the place")


def load(root: Path | None, *options: str, name: str = "faster_rcnn_c4_voc") -> Detectron2Config:
    return Detectron2Config(DETECTRON2.configs.find(name), [*QUICK, *options], root)


@pytest.fixture
def own_voc(drawn_voc, tmp_path) -> Path:
    """A copy of the data set that may be damaged."""
    return shutil.copytree(drawn_voc, tmp_path / "own")


@pytest.fixture
def photographs(drawn_voc) -> list[Path]:
    """The images of the drawn trainval split."""
    folder = drawn_voc / "VOC2007"
    names = (folder / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    return [folder / "JPEGImages" / f"{name}.jpg" for name in names]


# What a model sees


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("faster_rcnn_c4_voc", 0),
        ("faster_rcnn_fpn_voc", 2),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", 0),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", 0),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", 0),
    ],
)
def test_batches_are_what_detectron2s_mapper_and_model_make_of_labelled_images(own_voc, monkeypatch, name, workers):
    turn(next((own_voc / "VOC2007" / "JPEGImages").glob("0*.jpg")))
    data = ["DATASETS.TRAIN=('voc_2007_trainval',)", "DATASETS.TEST=('voc_2007_test',)"]
    config = load(own_voc, "INPUT.MIN_SIZE_TEST=90", f"DATALOADER.NUM_WORKERS={workers}", *data, name=name)
    source = config.images()
    assert source.workers == workers
    records = load_voc_instances(str(own_voc / "VOC2007"), "trainval", CLASS_NAMES)
    by_name = {f"{record['image_id']}.jpg": record for record in records}
    assert sorted(source.names) == sorted(by_name)
    mapper, model, seen = DatasetMapper(config.cfg, is_train=False), build_model(config.cfg).eval(), []
    monkeypatch.setattr(model.backbone, "forward", lambda images: seen.append(images) or 1 / 0)
    for batch in draw_batches(source, None, 3, seed=0):
        with pytest.raises(ZeroDivisionError):
            model([mapper(by_name[name]) for name in batch.names])
        assert torch.equal(batch.images, seen.pop())
        assert list(batch.sizes) == [mapper(by_name[name])["image"].shape[1:] for name in batch.names]


def turn(photograph: Path) -> None:
    """Stand an image on its end, and its labels with it."""
    Image.open(photograph).rotate(90, expand=True).save(photograph)
    annotation = photograph.parent.parent / "Annotations" / f"{photograph.stem}.xml"
    text = annotation.read_text().replace("<width>160", "<width>120", 1).replace("<height>120", "<height>160", 1)
    annotation.write_text(text)


def test_images_of_a_semantic_segmenter_are_normalised_as_it_does(drawn_voc, photographs, monkeypatch):
    data = ["DATASETS.TRAIN=('voc_2007_trainval',)", "DATASETS.TEST=('voc_2007_test',)"]
    config = load(drawn_voc, *data, name="Misc/semantic_R_50_FPN_1x.yaml")
    (batch,) = draw_batches(config.images(), 2, 2, seed=0)
    model, seen = build_model(config.cfg).eval(), []
    monkeypatch.setattr(model.backbone, "forward", lambda images: seen.append(images) or 1 / 0)
    mapper = DatasetMapper(config.cfg, is_train=False)
    with pytest.raises(ZeroDivisionError):
        model([mapper({"file_name": str(photographs[0].with_name(name))}) for name in batch.names])
    assert torch.equal(batch.images, seen[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(own_voc, workers):
    photograph = sorted((own_voc / "VOC2007" / "JPEGImages").glob("0*.jpg"))[2]
    photograph.write_bytes(photograph.read_bytes()[:200])
    source = load(own_voc, f"DATALOADER.NUM_WORKERS={workers}").images()
    with pytest.raises(UserError, match=f"{photograph.name} cannot be read") as caught:
        list(draw_batches(source, None, 4, seed=0))
    assert "\n" not in str(caught.value)


def test_the_same_seed_draws_the_same_images_as_in_mmdetection(drawn_voc):
    pytest.importorskip("mmdet", reason="mmdet is not installed")
    ours = load(drawn_voc).images()
    theirs = MMDET.open("faster_rcnn_c4_voc", ["test_dataloader.num_workers=0"], drawn_voc).images()
    assert drawn(ours, seed=3) == drawn(theirs, seed=3) != drawn(ours, seed=4)


def drawn(source: ImageSource, seed: int) -> list[list[str]]:
    batches = draw_batches(source, 5, 2, seed)
    return [[source.names[index] for index in part] for part in batches.parts]


# Without labels


def test_voc_needs_no_annotations(own_voc, photographs):
    shutil.rmtree(own_voc / "VOC2007" / "Annotations")
    source = load(own_voc).images()
    assert source.names == [path.name for path in photographs]
    assert source[0].pixels.shape[1:] == source[0].size
    (own_voc / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"trainval\.txt is not text"):
        load(own_voc).images()


@pytest.fixture
def unlabelled_coco(photographs, tmp_path) -> Path:
    """A data root in COCO layout whose file lists all images of a folder but one, and nothing else."""
    root = tmp_path / "coco"
    (root / "train2017").mkdir(parents=True)
    for path in photographs:
        shutil.copy(path, root / "train2017")
    (root / "annotations").mkdir()
    listed = [{"id": number, "file_name": path.name} for number, path in enumerate(photographs[1:])]
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps({"images": listed}))
    return root


def test_coco_needs_a_list_of_images_alone(unlabelled_coco, photographs):
    source = load(unlabelled_coco, name="mask_rcnn_fpn_coco").images()
    assert source.names == [path.name for path in photographs[1:]]
    assert source[0].size == (64, 85)


def test_coco_without_a_list_is_the_folder_and_says_so(unlabelled_coco, photographs):
    shutil.rmtree(unlabelled_coco / "annotations")
    config = load(unlabelled_coco, name="mask_rcnn_fpn_coco")
    with pytest.warns(UserWarning, match=r"train2017\.json is missing: all 8 images of .*train2017 are taken"):
        source = config.images()
    assert source.names == sorted(path.name for path in photographs)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": [7]}', '{"annotations": []}', '{"images": [{"id": 1}]}'])
def test_a_damaged_list_is_refused(unlabelled_coco, text):
    (unlabelled_coco / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(
        UserError, match=r"instances_train2017\.json (cannot be read as COCO annotations|lists the image)"
    ) as caught:
        load(unlabelled_coco, name="mask_rcnn_fpn_coco").images()
    assert "\n" not in str(caught.value)


def test_cityscapes_needs_no_labels_and_no_scripts(photographs, tmp_path, monkeypatch):
    folder = tmp_path / "cityscapes" / "leftImg8bit" / "train"
    expected = []
    for number, city in enumerate(("ulm", "aachen")):
        (folder / city).mkdir(parents=True)
        expected.append(f"{city}_000000_000019_leftImg8bit.png")
        Image.open(photographs[number]).save(folder / city / expected[-1])
    monkeypatch.setattr("data_plugin.backbones.detectron2.labels.require_cityscapesscripts", lambda: 1 / 0)
    source = load(tmp_path, name="mask_rcnn_fpn_cityscapes").images()
    assert sorted(source.names) == sorted(expected)
    assert source[0].size == (64, 85)


def test_data_sets_of_ones_own_are_what_their_function_says(photographs):
    DatasetCatalog.register("own", lambda: [{"file_name": str(path)} for path in photographs[:3]])
    source = load(None, "DATASETS.TRAIN=('own',)").images()
    assert source.names == [path.name for path in photographs[:3]]


def test_labels_are_still_needed_to_train(own_voc, tmp_path):
    shutil.rmtree(own_voc / "VOC2007" / "Annotations")
    config = load(own_voc, "MODEL.WEIGHTS=backbone.pth")
    with pytest.raises(UserError, match=r"Annotations/\d+\.xml is missing"):
        config.finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What is not there


def test_missing_files_are_refused(own_voc, tmp_path):
    DatasetCatalog.register("moved_away", list)
    MetadataCatalog.get("moved_away").set(json_file=str(tmp_path / "absent.json"))
    with pytest.raises(UserError, match=r"absent\.json of the data set moved_away is missing"):
        load(None, "DATASETS.TRAIN=('moved_away',)").images()
    DatasetCatalog.register("empty", list)
    with pytest.raises(UserError, match="the data set empty has no images"):
        load(None, "DATASETS.TRAIN=('empty',)").images()
    with pytest.raises(UserError, match="'voc_1999' is not a data set"):
        load(None, "DATASETS.TRAIN=('voc_1999',)").images()
    with pytest.raises(UserError, match="names no data set"):
        load(None, "DATASETS.TRAIN=()").images()
    config = load(own_voc)
    photograph = next((own_voc / "VOC2007" / "JPEGImages").glob("0*.jpg"))
    photograph.unlink()
    with pytest.raises(UserError, match=photograph.name):
        config.images()
    shutil.rmtree(own_voc)
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        config.images()
