"""Annotations in COCO's format as people have them: what fine-tuning's loaders make of them, or they are named."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from labels_loaded import loaded, refused, title
from samples import OBJECTS, draw_own_coco, unchanged_catalogs

from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import DETECTRON2, MMDET

pytestmark = pytest.mark.filterwarnings("ignore:.*lists categories of its own")

UNCHANGED = {
    "detectron2": ["INPUT.MIN_SIZE_TRAIN=(64,)", "INPUT.RANDOM_FLIP=none", "MODEL.DEVICE=cpu"],
    "mmdet": [
        "train_dataloader.dataset.pipeline.2.scales=[(96,64)]",
        "train_dataloader.dataset.pipeline.3.prob=0.0",
        "test_dataloader.num_workers=0",
    ],
}
"""Options that leave the images of a training as they are."""

DRAWN = [(name, (4 + 22 * place, 10, 22 + 22 * place, 50)) for place, name in enumerate(OBJECTS)]
"""The objects of every image, of 96x64 pixels."""


@dataclass(frozen=True)
class Coco:
    """A data root that may be changed."""

    root: Path

    def change(self, how: Callable[[dict[str, list[dict[str, Any]]]], object], split: str = "train2017") -> Path:
        """Change what a split's file holds, and return the file."""
        path = self.root / "annotations" / f"instances_{split}.json"
        contents = json.loads(path.read_text())
        how(contents)
        path.write_text(json.dumps(contents))
        return path

    def annotate(self, **fields: object) -> Path:
        """Change the first annotation of the first image, and return the file."""
        return self.change(lambda it: it["annotations"][0].update(fields))


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(draw_own_coco(tmp_path / "coco"))


@pytest.fixture(params=(DETECTRON2, MMDET), ids=lambda framework: framework.name)
def opened(request, coco: Coco) -> Iterator[Callable[[], FrameworkConfig]]:
    pytest.importorskip(request.param.name, reason=f"{request.param.name} is not installed")
    with unchanged_catalogs() if request.param is DETECTRON2 else contextlib.nullcontext():
        yield lambda: request.param.open("faster_rcnn_fpn_coco", UNCHANGED[request.param.name], coco.root)


def test_annotations_as_they_should_be(opened, coco: Coco):
    assert loaded(opened()) == {str(number): DRAWN for number in range(4)}


@pytest.mark.parametrize("size", [(0, 0), (64, 96), (None, 64)])
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_a_size_that_is_not_the_images_is_named_and_counted(opened, coco: Coco, tmp_path: Path, size, split: str):
    width, height = size
    file = coco.change(lambda it: [each.update(width=width, height=height) for each in it["images"][1:]], split)
    words = rf"{file} gives .*{split}/1.png the width {width} and the height {height} where it has 96 and 64, "
    refused(opened(), tmp_path, words + f"the first of {3 if split == 'train2017' else 1} such")


def test_an_image_that_is_missing_is_named_with_what_is_there(opened, coco: Coco, tmp_path: Path):
    image = coco.root / "train2017" / "1.png"
    image.rename(image.with_suffix(".PNG"))
    words = rf"{image} is missing, the first of 1 such images that .*; there is 1.PNG, .*: rename or convert"
    refused(opened(), tmp_path, words)


def test_a_file_that_is_no_image_is_named(opened, coco: Coco, tmp_path: Path):
    (coco.root / "train2017" / "1.png").write_text("no image")
    refused(opened(), tmp_path, r"train2017/1.png cannot be read as an image")


@pytest.mark.parametrize("field", ["id", "image_id", "category_id", "bbox", "area", "iscrowd"])
def test_a_field_that_is_not_there_is_named_and_counted(opened, coco: Coco, tmp_path: Path, field: str):
    if field in ("id", "image_id", "category_id"):
        file = coco.change(lambda it: it["annotations"][0].pop(field))
        count = 1
    else:
        file = coco.change(lambda it: [each.pop(field) for each in it["annotations"]])
        count = 16
    words = rf"{file} has an annotation without {field} \(id \w+\), the first of {count} such; expected id, image_id, "
    refused(opened(), tmp_path, words)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bbox": [4, 10, float("nan"), 40]}, r"the bbox \[4, 10, nan, 40\]"),
        ({"bbox": [22, 10, -18, 40]}, r"the bbox \[22, 10, -18, 40\]"),
        ({"bbox": [4, 10, 18]}, r"the bbox \[4, 10, 18\]"),
        ({"bbox": ["4", 10, 18, 40]}, r"the bbox \['4', 10, 18, 40\]"),
        ({"bbox": None}, "the bbox None"),
        ({"area": -1}, "the area -1"),
        ({"area": None}, "the area None"),
        ({"iscrowd": "0"}, "the iscrowd '0'"),
    ],
)
def test_numbers_that_are_none_are_named(opened, coco: Coco, tmp_path: Path, fields, said: str):
    file = coco.annotate(**fields)
    refused(opened(), tmp_path, rf"{file} has an annotation \(id 1\) with .*{said}.*, the first of 1 such; expected x,")


@pytest.mark.parametrize("box", [[96, 10, 18, 40], [-18, 10, 18, 40], [4, 64.5, 18, 40]])
def test_a_box_beside_its_image_is_named(opened, coco: Coco, tmp_path: Path, box: list[float]):
    file = coco.annotate(bbox=box)
    words = rf"{file} has an annotation \(id 1\) with the bbox .*, which covers nothing of its image of 96x64 pixels"
    refused(opened(), tmp_path, words)


def test_a_box_over_the_border_is_clipped(opened, coco: Coco):
    coco.annotate(bbox=[-5, -5, 200, 40], area=8000)
    assert loaded(opened())["0"] == [("walker", (0, 0, 96, 35)), *DRAWN[1:]]


@pytest.mark.parametrize("fields", [{"iscrowd": 1}, {"bbox": [4, 10, 0, 40], "area": 0}, {"image_id": 99}])
def test_what_both_frameworks_leave_out(opened, coco: Coco, fields):
    coco.annotate(**fields)
    assert loaded(opened())["0"] == DRAWN[1:]


@pytest.mark.parametrize("fields", [{"area": 0}, {"bbox": [4, 10, 0.5, 40], "area": 20}])
def test_what_mmdetection_leaves_out(opened, coco: Coco, fields):
    file = coco.annotate(**fields)
    config = opened()
    found = loaded(config)["0"]
    if title(config) == "detectron2":
        x, y, width, height = json.loads(file.read_text())["annotations"][0]["bbox"]
        assert found == [("walker", (x, y, x + width, y + height)), *DRAWN[1:]]
    else:
        assert found == DRAWN[1:]


@pytest.mark.parametrize("fields", [{"area": 0}, {"image_id": 99}])
def test_labels_of_which_none_is_left_are_refused(opened, coco: Coco, tmp_path: Path, fields):
    coco.change(lambda it: [each.update(fields) for each in it["annotations"]])
    config = opened()
    if title(config) == "detectron2" and "area" in fields:
        assert loaded(config)["0"] == DRAWN
    else:
        refused(config, tmp_path, "has no object")


def test_a_search_reads_no_annotation(opened, coco: Coco):
    coco.change(lambda it: it.update(annotations=[{"bbox": "none"}]))
    coco.change(lambda it: [each.pop("width") for each in it["images"]])
    assert opened().images().names == ["0.png", "1.png", "2.png", "3.png"]
