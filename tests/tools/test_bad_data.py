"""Data sets as they should not be: one sentence that names the fault, exit code 2, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from samples import SMALL_C4, draw_own_coco

from data_plugin.tools import finetune_det, finetune_seg, search_det

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def listed(root: Path) -> tuple[Path, Path]:
    """The first training image of a drawn data set in VOC's layout, and its annotation."""
    folder = root / "VOC2007"
    name = (folder / "ImageSets/Main/trainval.txt").read_text().split()[0]
    return folder / f"JPEGImages/{name}.jpg", folder / f"Annotations/{name}.xml"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def box(root: Path) -> None:
    annotation = listed(root)[1]
    text = annotation.read_text()
    left = text[text.index("<xmin>") + 6 : text.index("</xmin>")]
    right = text[text.index("<xmax>") + 6 : text.index("</xmax>")]
    annotation.write_text(text.replace(f"<xmax>{right}<", f"<xmax>{int(left) - 1}<", 1))


TRAINED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an annotation that is no XML": (lambda root: listed(root)[1].write_text("<annotation>"), "annotation"),
    "an annotation that is missing": (lambda root: listed(root)[1].unlink(), ".xml"),
    "an object without a name": (lambda root: replace(listed(root)[1], "<name>", "<nom>"), ".xml"),
    "an object without a box": (lambda root: replace(listed(root)[1], "<bndbox>", "<box>"), ".xml"),
    "a box of no extent": (box, "which covers nothing of its image"),
    "an image that is missing": (lambda root: listed(root)[0].unlink(), "is missing, but trainval.txt lists it"),
    "an image that is text": (lambda root: listed(root)[0].write_text("no image"), ".jpg"),
    "no list of images": (lambda root: (root / "VOC2007/ImageSets/Main/trainval.txt").unlink(), "trainval.txt"),
    "an empty list of images": (lambda root: (root / "VOC2007/ImageSets/Main/trainval.txt").write_text(""), "trainval"),
    "no annotations at all": (lambda root: shutil.rmtree(root / "VOC2007/Annotations"), "Annotations"),
}
"""What is wrong with data in VOC's layout, and what the sentence names, before a training."""


@pytest.mark.parametrize("framework", ["mmdet", "detectron2"])
@pytest.mark.parametrize("fault", TRAINED)
def test_a_detector_is_not_trained_on(fault, framework, drawn_voc, tmp_path, capsys):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(drawn_voc, root)
    spoil, named = TRAINED[fault]
    spoil(root)
    arguments = ["--config", "faster_rcnn_c4_voc", "--framework", framework, "--data-root", root, "--out", out]
    arch = {"mmdet": "model.backbone.arch", "detectron2": "MODEL.DATA_RESNET.ARCH"}[framework]
    options = [*SMALL_C4[framework], f"{arch}=d1-1-1-1_w4-4-8-8-16"]
    assert finetune_det.main([*map(str, arguments), "--opts", *options]) == 2
    said = capsys.readouterr().err
    assert_one_sentence(said, named)
    assert not out.exists()


def assert_one_sentence(said: str, named: str) -> None:
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, said
    assert named in sentences[0], said


def coco_file(root: Path) -> Path:
    return root / "annotations" / "instances_train2017.json"


def change_coco(**fields: object) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        contents = json.loads(coco_file(root).read_text())
        contents["annotations"][0].update(fields)
        coco_file(root).write_text(json.dumps(contents))

    return change


COCO: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file that is cut off": (lambda root: coco_file(root).write_text('{"images": ['), "cannot be read as COCO"),
    "a size of nothing": (lambda root: replace(coco_file(root), '"width": 96', '"width": 0'), "the first of 1 such"),
    "a box turned round": (change_coco(bbox=[22, 10, -18, 40]), "the bbox [22, 10, -18, 40]"),
    "a box of no numbers": (change_coco(bbox=[4, 10, float("nan"), 40]), "the bbox [4, 10, nan, 40]"),
    "no area": (lambda root: replace(coco_file(root), '"area"', '"areas"'), "an annotation without area"),
    "a category that is not listed": (change_coco(category_id=99), "category 99"),
    "an image of another ending": (
        lambda root: (root / "train2017" / "0.png").rename(root / "train2017" / "0.jpg"),
        "there is 0.jpg, but what is read is 0.png",
    ),
}
"""What is wrong with data in COCO's layout, and what the sentence names, before a training."""


@pytest.mark.parametrize("framework", ["mmdet", "detectron2"])
@pytest.mark.parametrize("fault", COCO)
def test_a_detector_is_not_trained_on_coco_with(fault, framework, tmp_path, capsys):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    root, out = draw_own_coco(tmp_path / "data"), tmp_path / "out"
    spoil, named = COCO[fault]
    spoil(root)
    arguments = ["--config", "faster_rcnn_fpn_coco", "--framework", framework, "--data-root", root, "--out", out]
    assert finetune_det.main([*map(str, arguments)]) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not out.exists()


def label_file(root: Path) -> Path:
    return sorted((root / "gtFine" / "train").rglob("*.png"))[0]


LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a label file that is missing": (lambda root: label_file(root).unlink(), "cannot be read as labels"),
    "labels in colour": (lambda root: Image.new("RGB", (96, 64)).save(label_file(root)), "has 3 channels"),
    "labels of another size": (lambda root: Image.new("L", (64, 96)).save(label_file(root)), "the first of 1 such"),
    "a label beyond the classes": (lambda root: Image.new("L", (96, 64), 19).save(label_file(root)), "the label 19"),
}
"""What is wrong with data in Cityscapes' layout, and what the sentence names, before a training."""


@pytest.mark.parametrize("fault", LABELS)
def test_a_segmenter_is_not_trained_on(fault, drawn_cityscapes, tmp_path, capsys):
    pytest.importorskip("mmseg", reason="mmseg is not installed")
    root, out = shutil.copytree(drawn_cityscapes, tmp_path / "data"), tmp_path / "out"
    spoil, named = LABELS[fault]
    spoil(root)
    assert finetune_seg.main(["--config", "fcn_d8_cityscapes", "--data-root", str(root), "--out", str(out)]) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not out.exists()


@pytest.mark.parametrize("framework", ["mmdet", "detectron2"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut off"])
def test_images_that_are_none_are_not_searched_on(content, framework, drawn_voc, tmp_path, shipped, capsys):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(content)
    arguments = ["--config", "faster_rcnn_c4_voc", "--framework", framework, "--images", folder, "--out", out]
    assert search_det.main([*map(str, arguments), "--group", "0-1", "--samples", "1"]) == 2
    assert_one_sentence(capsys.readouterr().err, "one.jpg")
