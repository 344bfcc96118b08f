"""Annotations in VOC's layout as people have them: what fine-tuning's loaders make of them, or they are named."""

import contextlib
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from labels_loaded import loaded, refused, title
from PIL import Image
from samples import unchanged_catalogs

from data_plugin import UserError
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import DETECTRON2, MMDET
from data_plugin.images.voc import VOCSplit
from data_plugin.images.voc_boxes import annotated_images

SIZE = (160, 120)
UNCHANGED = {
    "detectron2": ["INPUT.MIN_SIZE_TRAIN=(120,)", "INPUT.RANDOM_FLIP=none", "MODEL.DEVICE=cpu"],
    "mmdet": [
        "train_dataloader.num_workers=0",
        "train_dataloader.dataset.datasets.0.pipeline.3.scales=[(160,120)]",
        "train_dataloader.dataset.datasets.0.pipeline.4.prob=0.0",
    ],
}
"""Options that leave the images of a training as they are."""


@dataclass(frozen=True)
class Voc:
    """A data root that may be changed, whose first training image has one object."""

    root: Path
    name: str

    @property
    def annotation(self) -> Path:
        return self.root / "VOC2007" / "Annotations" / f"{self.name}.xml"

    @property
    def photograph(self) -> Path:
        return self.root / "VOC2007" / "JPEGImages" / f"{self.name}.jpg"

    def annotate(self, *box: float, size: str | None = "160x120", name: str = "car") -> None:
        """Give the first image one object with a box, or none."""
        keys = ("xmin", "ymin", "xmax", "ymax")
        corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=bool(box)))
        rest = "<pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
        item = f"<object><name>{name}</name>{rest}<bndbox>{corners}</bndbox></object>" if box else ""
        width, _, height = (size or "").partition("x")
        said = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if size else ""
        self.annotation.write_text(f"<annotation>{said}{item}</annotation>", encoding="utf-8")


@pytest.fixture
def voc(drawn_voc: Path, tmp_path: Path) -> Voc:
    root = shutil.copytree(drawn_voc, tmp_path / "voc")
    found = Voc(root, (root / "VOC2007/ImageSets/Main/trainval.txt").read_text().split()[0])
    found.annotate(11, 21, 50, 60)
    return found


@pytest.fixture(params=(DETECTRON2, MMDET), ids=lambda framework: framework.name)
def opened(request, voc: Voc) -> Iterator[Callable[[], FrameworkConfig]]:
    pytest.importorskip(request.param.name, reason=f"{request.param.name} is not installed")

    def open_() -> FrameworkConfig:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TRAINING DATA")
            warnings.filterwarnings("ignore", message=".*classes of their own")
            return request.param.open("faster_rcnn_c4_voc", UNCHANGED[request.param.name], voc.root)

    with unchanged_catalogs() if request.param is DETECTRON2 else contextlib.nullcontext():
        yield open_


def as_it_is(config: FrameworkConfig, *box: int) -> tuple[float, ...]:
    """The box, in pixels from 1, in which both corners count, as a framework has it."""
    left, top, right, bottom = box
    last = 0 if title(config) == "detectron2" else 1
    return (left - 1, top - 1, right - last, bottom - last)


def test_an_annotation_as_it_should_be(opened, voc: Voc):
    config = opened()
    assert loaded(config)[voc.name] == [("car", as_it_is(config, 11, 21, 50, 60))]


@pytest.mark.parametrize("ending", [".JPG", ".png"])
def test_an_image_of_another_ending_is_named(opened, voc: Voc, tmp_path: Path, ending: str):
    voc.photograph.rename(voc.photograph.with_suffix(ending))
    message = (
        rf"{voc.name}.jpg is missing, but trainval.txt lists it; there is {voc.name}{ending}, .* rename or convert"
    )
    refused(opened(), tmp_path, message)


@pytest.mark.parametrize("ending", [".JPG", ".png"])
def test_a_search_names_an_image_of_another_ending(opened, voc: Voc, ending: str):
    voc.photograph.rename(voc.photograph.with_suffix(ending))
    words = rf"{voc.name}.jpg .*is missing; there is {voc.name}{ending}, but .* {voc.name}.jpg: rename or convert it"
    with pytest.raises(UserError, match=words):
        opened().images()[0]


@pytest.mark.parametrize("size", ["320x240", "120x160", "0x0"])
def test_a_size_that_is_not_the_images(opened, voc: Voc, tmp_path: Path, size: str):
    voc.annotate(11, 21, 50, 60, size=size)
    config = opened()
    if title(config) == "detectron2":
        message = rf"{voc.name}.xml gives the size {size} where its image has 160x120 pixels, the first of 1 such"
        refused(config, tmp_path, message)
        return
    with pytest.warns(
        UserWarning, match=rf"1 annotations give another size .* {re.escape(str(voc.annotation))} \({size},"
    ):
        found = loaded(config)
    assert found[voc.name] == [("car", as_it_is(config, 11, 21, 50, 60))]


def test_no_size(opened, voc: Voc, tmp_path: Path):
    voc.annotate(11, 21, 50, 60, size=None)
    config = opened()
    if title(config) == "detectron2":
        refused(config, tmp_path, rf"{voc.name}.xml gives no size where its image has 160x120 pixels")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(config)[voc.name] == [("car", as_it_is(config, 11, 21, 50, 60))]


def test_a_size_without_numbers_is_named(opened, voc: Voc, tmp_path: Path):
    voc.annotate(11, 21, 50, 60, size="wide")
    refused(opened(), tmp_path, rf"{voc.name}.xml gives the width 'wide' in its <size>; expected a whole number")


def test_no_object(opened, voc: Voc, caplog, monkeypatch):
    voc.annotate()
    config = opened()
    if title(config) == "detectron2":
        log = logging.getLogger("detectron2.data.build")
        monkeypatch.setattr(log, "handlers", [caplog.handler])
        with caplog.at_level(logging.INFO, log.name):
            found = loaded(config)
        assert "Removed 1 images with no usable annotations" in caplog.text
    else:
        with pytest.warns(
            UserWarning, match=rf"1 of the 8 images of .*trainval.txt have no object .* is {voc.name}: tr"
        ):
            found = loaded(config)
    assert voc.name not in found
    assert len(found) == 7


@pytest.mark.parametrize("box", [(-9, 21, 50, 60), (11, 21, 500, 600), (0, 0, 50, 60)])
def test_a_box_over_the_border_is_clipped(opened, voc: Voc, box: tuple[int, ...]):
    voc.annotate(*box)
    config = opened()
    left, top, right, bottom = as_it_is(config, *box)
    expected = (max(left, 0), max(top, 0), min(right, SIZE[0]), min(bottom, SIZE[1]))
    assert loaded(config)[voc.name] == [("car", expected)]


@pytest.mark.parametrize("box", [(50, 21, 11, 60), (11, 60, 50, 21), (200, 21, 300, 60), (11, -60, 50, -21)])
def test_a_box_that_covers_nothing_is_named_and_counted(opened, voc: Voc, tmp_path: Path, box: tuple[int, ...]):
    voc.annotate(*box)
    left, top, right, bottom = box
    words = (
        rf"{voc.name}.xml has an object from {left},{top} to {right},{bottom}, .*160x120 pixels, the first of 1 such"
    )
    refused(opened(), tmp_path, words)


def test_a_box_of_one_pixel_as_voc_counts(opened, voc: Voc, tmp_path: Path):
    voc.annotate(11, 21, 11, 60)
    config = opened()
    if title(config) == "detectron2":
        assert loaded(config)[voc.name] == [("car", (10, 20, 11, 60))]
        return
    refused(config, tmp_path, rf"{voc.name}.xml has an object from 11,21 to 11,60, which covers nothing")


@pytest.mark.parametrize("contents", ["<bndbox/>", "", "<bndbox><xmin>a</xmin></bndbox>"])
def test_an_object_without_a_box_is_named(opened, voc: Voc, tmp_path: Path, contents: str):
    text = re.sub("<bndbox>.*</bndbox>", contents, voc.annotation.read_text())
    voc.annotation.write_text(text)
    refused(opened(), tmp_path, rf"{voc.name}.xml has an object 'car' whose <bndbox> is .*; expected numbers of pixels")


def test_letters_of_any_script_in_names(opened, voc: Voc):
    voc.annotate(11, 21, 50, 60, name="Füchse 狐")
    new = "with_ü_図"
    for path in (voc.annotation, voc.photograph):
        path.rename(path.with_stem(new))
    listing = voc.root / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    listing.write_text(listing.read_text().replace(voc.name, new), encoding="utf-8")
    config = opened()
    assert loaded(config)[new] == [("Füchse 狐", as_it_is(config, 11, 21, 50, 60))]


@pytest.mark.parametrize("name", ["fox\n", " fox"])
def test_a_name_with_space_around_it_is_named(opened, voc: Voc, name: str):
    voc.annotate(11, 21, 50, 60, name=name)
    with pytest.raises(
        UserError, match=rf"{voc.name}.xml has an object of class .*; expected <name>fox</name>, without"
    ):
        opened()


def test_a_turned_photograph_has_the_size_that_it_is_shown_in(voc: Voc):
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by a quarter to the right
    with Image.open(voc.photograph) as image:
        turned = image.rotate(90, expand=True)
    turned.save(voc.photograph, exif=exif)
    first = annotated_images(VOCSplit.named(voc.root / "VOC2007", "trainval"))[0]
    assert (first.size, first.said_size) == (SIZE, SIZE)
