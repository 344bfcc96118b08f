from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data_plugin.images.drawn_voc import CLASSES, draw, draw_voc
from data_plugin.images.voc import CLASSES as VOC_CLASSES
from data_plugin.images.voc import VOCSplit, check_voc, voc_root
from data_plugin.utils.errors import UserError

SIZE = (200, 150)


def read_objects(path):
    root = ElementTree.parse(path).getroot()
    fields = ("xmin", "ymin", "xmax", "ymax")
    return [
        (item.findtext("name"), tuple(int(item.findtext(f"bndbox/{field}")) for field in fields))
        for item in root.findall("object")
    ]


def extent(mask):
    """The 1-based inclusive box of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1)


def change(drawing):
    """Per pixel, how far the objects changed the background, in grey levels."""
    pixels = (np.asarray(image, dtype=int) for image in (drawing.image, drawing.background))
    return np.abs(next(pixels) - next(pixels)).max(2)


def test_layout_is_the_one_that_the_frameworks_read(drawn_voc: Path):
    root = voc_root(drawn_voc)
    for name, count in (("trainval", 8), ("test", 4)):
        split = VOCSplit.named(root / "VOC2007", name)
        assert len(split.names) == count
        assert set(check_voc(split)) <= set(VOC_CLASSES)
    assert len(list((root / "VOC2007" / "JPEGImages").glob("*.jpg"))) == 16
    assert len(list((root / "VOC2007" / "Annotations").iterdir())) == 12


def test_annotations_hold_all_fields(drawn_voc: Path):
    for path in (drawn_voc / "VOC2007" / "Annotations").iterdir():
        root = ElementTree.parse(path).getroot()
        image = Image.open(drawn_voc / "VOC2007" / "JPEGImages" / root.findtext("filename"))
        assert (int(root.findtext("size/width")), int(root.findtext("size/height"))) == image.size == (160, 120)
        assert root.findtext("size/depth") == "3"
        assert root.findtext("folder") == "VOC2007"
        assert root.findtext("segmented") == "0"
        assert 1 <= len(root.findall("object")) <= 4
        for item in root.findall("object"):
            assert (item.findtext("truncated"), item.findtext("difficult")) == ("0", "0")
            assert item.findtext("pose")
        for _, (left, top, right, bottom) in read_objects(path):
            assert 1 <= left < right <= 160
            assert 1 <= top < bottom <= 120


def test_boxes_are_the_extent_of_the_objects():
    alone = 0
    for seed in range(30):
        drawing = draw(np.random.default_rng(seed), SIZE)
        changed = change(drawing) > 0
        inside = np.zeros_like(changed)
        count = np.zeros(changed.shape, dtype=int)
        for item in drawing.objects:
            left, top, right, bottom = item.box
            inside[top - 1 : bottom, left - 1 : right] = True
            count[top - 1 : bottom, left - 1 : right] += 1
        assert not (changed & ~inside).any()
        for item in drawing.objects:
            left, top, right, bottom = item.box
            here = np.zeros_like(changed)
            here[top - 1 : bottom, left - 1 : right] = True
            if (count[here] == 1).all():
                alone += 1
                assert np.abs(np.subtract(extent(changed & here), item.box)).max() <= 1
    assert alone > 30


def test_boxes_in_the_files_fit_the_photographs(tmp_path: Path):
    folder = draw_voc(tmp_path, train=12, test=1, size=SIZE, seed=5)
    fitted = 0
    for number in range(12):
        drawing = draw(np.random.default_rng([5, 0, number]), SIZE)
        photograph = Image.open(folder / "JPEGImages" / f"0{number:05d}.jpg")
        background = np.asarray(drawing.background, dtype=int)
        changed = np.abs(np.asarray(photograph, dtype=int) - background).max(2) > 40
        objects = read_objects(folder / "Annotations" / f"0{number:05d}.xml")
        boxes = np.array([box for _, box in objects])
        around = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
        assert np.abs(np.subtract(extent(changed), around)).max() <= 4
        fitted += len(objects)
    assert fitted > 12


def test_objects_hide_little_of_each_other_and_all_classes_occur():
    seen = set()
    for seed in range(40):
        objects = draw(np.random.default_rng(seed), SIZE).objects
        seen.update(item.name for item in objects)
        for number, item in enumerate(objects):
            for other in objects[:number]:
                width = min(item.box[2], other.box[2]) - max(item.box[0], other.box[0]) + 1
                height = min(item.box[3], other.box[3]) - max(item.box[1], other.box[1]) + 1
                area = (other.box[2] - other.box[0] + 1) * (other.box[3] - other.box[1] + 1)
                assert max(width, 0) * max(height, 0) <= 0.2 * area
    assert seen == set(CLASSES) <= set(VOC_CLASSES)


def test_the_seed_decides_whatever_the_counts(tmp_path: Path):
    def contents(name, **counts):
        folder = draw_voc(tmp_path / name, size=(80, 64), **counts)
        files = (path for path in sorted(folder.rglob("*")) if path.suffix in {".jpg", ".xml"})
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    few = contents("few", train=2, test=1, seed=1)
    assert contents("again", train=2, test=1, seed=1) == few
    more = contents("more", train=3, test=2, seed=1, unlabelled=1)
    assert few.items() < more.items()
    other = contents("other", train=2, test=1, seed=2)
    assert not few.items() & other.items()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"train": 0, "test": 1}, "0 training"),
        ({"train": 1, "test": 1, "unlabelled": -1}, "-1 unlabelled"),
        ({"train": 1, "test": 1, "size": (320, 20)}, "320x20"),
    ],
)
def test_bad_numbers_write_nothing(tmp_path: Path, arguments, named):
    with pytest.raises(UserError, match=named):
        draw_voc(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
