"""Sizes and boxes of data sets that are neither VOC's nor COCO's, such as those that users register."""

import math

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.transforms import RandomFlip
from detectron2.structures import BoxMode
from PIL import Image

from data_plugin import UserError
from data_plugin.backbones.detectron2.records import check_records
from data_plugin.frameworks.registry import DETECTRON2

WIDTH, HEIGHT = 60, 40


@pytest.fixture
def record(tmp_path):
    """Makes the record of an image with one box."""
    path = tmp_path / "cat.png"
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)).save(path)

    def record(bbox=(10, 10, 30, 20), mode=BoxMode.XYXY_ABS, **more):
        annotation = {"bbox": list(bbox), "bbox_mode": mode, "category_id": 0}
        return {"file_name": str(path), "image_id": 0, "annotations": [annotation], **more}

    return record


@pytest.fixture
def mapped():
    """What detectron2 makes of a record in training."""
    mapper = DatasetMapper(is_train=True, augmentations=[RandomFlip(1.0)], image_format="BGR")
    return lambda record: mapper(record)["instances"]


@pytest.mark.parametrize(
    ("box", "mode", "kept"),
    [
        ((10, 10, 30, 20), BoxMode.XYXY_ABS, 1),
        ((10, 10, 20, 10), BoxMode.XYWH_ABS, 1),
        ((-5, -5, 70, 50), BoxMode.XYXY_ABS, 1),
        ((59.5, 10, 90, 20), BoxMode.XYXY_ABS, 1),
        ((10, 10, 0, 10), BoxMode.XYWH_ABS, 0),
    ],
)
def test_what_detectron2_trains_with_or_leaves_out_by_convention_passes(record, mapped, box, mode, kept):
    check_records("own", [record(box, mode, width=WIDTH, height=HEIGHT), record(box, mode)])
    assert len(mapped(record(box, mode))) == kept


def test_arrays_are_boxes_too(record):
    check_records("own", [{**record(), "annotations": [{"bbox": np.array([1, 2, 3, 4]), "bbox_mode": 1}]}])


def test_turned_boxes_and_images_without_an_object_pass(record):
    check_records("own", [record((30, 20, 10, 10, 45), BoxMode.XYWHA_ABS), {**record(), "annotations": []}])


@pytest.mark.parametrize("box", [(60, 10, 90, 20), (10, 40, 20, 60), (-9, 0, 0, 20)])
def test_a_box_beside_its_image_is_refused_which_detectron2_would_leave_out(record, mapped, box):
    assert len(mapped(record(box))) == 0
    with pytest.raises(
        UserError, match=r"own has a box of \S+cat\.png, which has 60x40 pixels, .* the first of 1 such"
    ):
        check_records("own", [record(), record(box)])


def test_a_box_from_right_to_left_is_refused_which_detectron2_would_turn_round(record, mapped):
    turned = (30, 20, 10, 10)
    assert mapped(record(turned)).gt_boxes.tensor.tolist() == [[30, 10, 50, 20]]
    with pytest.raises(UserError, match=r"bbox \[30, 20, 10, 10\]"):
        check_records("own", [record(turned)])


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, math.nan, 4]},
        {"bbox": [1, 2, 3]},
        {"bbox": None},
        {"bbox": ["1", "2", "3", "4"]},
        {"bbox": [0.1, 0.1, 0.2, 0.2], "bbox_mode": BoxMode.XYXY_REL},
        {"bbox_mode": None},
        {"bbox_mode": 9},
    ],
)
def test_boxes_that_are_none_are_refused(record, change):
    wrong = record()
    wrong["annotations"][0].update(change)
    with pytest.raises(UserError, match="expected four finite numbers in a BoxMode in pixels"):
        check_records("own", [wrong])


def test_an_image_of_another_size_is_refused_which_detectron2_stops_at(record, mapped):
    wrong = record(width=HEIGHT, height=WIDTH)
    with pytest.raises(SizeMismatchError):
        mapped(wrong)
    with pytest.raises(UserError, match="the width 40 and the height 60 where it has 60 and 40, the first of 2 such"):
        check_records("own", [record(), wrong, wrong])


def test_fine_tuning_looks_before_it_begins(record, tmp_path, request):
    for name, box in (("looked_at_train", (70, 10, 90, 20)), ("looked_at_test", (10, 10, 30, 20))):
        DatasetCatalog.register(name, lambda box=box: [record(box)])
        request.addfinalizer(lambda name=name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)))
        MetadataCatalog.get(name).set(thing_classes=["cat"], evaluator_type="coco")
    options = ["DATASETS.TRAIN=('looked_at_train',)", "DATASETS.TEST=('looked_at_test',)", "MODEL.DEVICE=cpu"]
    config = DETECTRON2.open("faster_rcnn_c4_voc", [*options, "MODEL.WEIGHTS=backbone.pth"], None)
    with pytest.raises(UserError, match=r"looked_at_train has a box of \S+cat\.png"):
        config.finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()
