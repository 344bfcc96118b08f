"""Codes of images: their file, and how they are found again in the order of an image source."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from samples import written_codes

from data_plugin import UserError
from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.images.open import open_images

NAMES = ("b/1.png", "a/2.png", "a/1.png", "b/0.png")
DIGITS = [[2, 0], [1, 1], [0, 2]]
"""Of three images, by name; the second cannot be read."""


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + number, 4)).save(path)
    return open_images(tmp_path / "images")


@pytest.fixture
def codes(images, tmp_path):
    return written_codes(tmp_path / "codes", images, DIGITS, 3, unreadable=["a/2.png"])


def test_codes_come_in_the_order_of_the_images_and_minus_one_where_there_is_none(codes, images):
    found = codes.of(images)
    assert found.dtype == np.int64
    assert dict(zip(images.names, found.tolist(), strict=True)) == {
        "a/1.png": [2, 0],
        "a/2.png": [-1, -1],
        "b/0.png": [1, 1],
        "b/1.png": [0, 2],
    }


def test_what_is_read_is_what_was_written(codes):
    again = Codes.read(codes.folder)
    assert again.header == codes.header
    assert (again.header.levels, again.header.children, again.header.leaves, again.header.images) == (2, 3, 9, 3)
    assert again.digits.dtype == np.uint8
    assert again.digits.tolist() == DIGITS
    assert [each.shape for each in again.centroids] == [(3, 6), (9, 6)]
    assert again.centroid.shape == (6,)
    for centroids in (*again.centroids, again.centroid[None]):
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1)
    assert again.header.store.source["images"] == 4
    assert "3 images in 9 parts" in repr(again)
    assert "<td>9 in 2 levels of 3</td>" in again._repr_html_()


def test_parts_are_numbered_in_the_order_of_their_codes(codes):
    every = list(itertools.product(range(3), repeat=2))
    assert leaf_numbers(np.array(every), 3).tolist() == list(range(9))
    assert codes.header.sizes == tuple(int(list(each) in DIGITS) for each in every)


def test_the_fingerprint_is_that_of_digits_and_names(images, tmp_path):
    given = {
        "same": (DIGITS, ["a/2.png"]),
        "again": (DIGITS, ["a/2.png"]),
        "others": ([*DIGITS[:2], [0, 1]], ["a/2.png"]),
        "another is unreadable": (DIGITS, ["b/1.png"]),
    }
    found = {
        name: written_codes(tmp_path / name, images, digits, 3, unreadable).fingerprint()
        for name, (digits, unreadable) in given.items()
    }
    assert found["same"] == found["again"]
    assert len(set(found.values())) == 3


def test_any_features_go_down_the_tree_by_the_nearest_centroids(codes):
    features = np.random.default_rng(1).normal(size=(20, 6))
    for feature, digits in zip(features, codes.assign(features).tolist(), strict=True):
        first = int(np.argmax(codes.centroids[0] @ feature))
        second = int(np.argmax([centroid @ feature for centroid in codes.centroids[1][3 * first : 3 * first + 3]]))
        assert digits == [first, second]


def test_images_without_a_code_are_refused(codes, images, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "new.png")
    with pytest.raises(UserError, match=r"codes of other images: 1 of the 5 images of .* have none, new\.png is the"):
        codes.of(open_images(tmp_path / "images"))


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_images_that_are_gone_or_have_changed_are_refused(codes, tmp_path, change):
    change(tmp_path / "images" / "b" / "0.png")
    with pytest.raises(UserError, match=r"codes of 4 images of .*are not all of them or have changed since"):
        codes.of(open_images(tmp_path / "images"))


def rewritten(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "codes.json").unlink(), r"codes\.json cannot be read .*that data-cluster finished"),
        (lambda folder: (folder / "codes.json").write_text("{"), r"codes\.json cannot be read"),
        (lambda folder: (folder / "codes.json").write_text("[]"), r"codes\.json cannot be read"),
        (lambda folder: rewritten(folder / "codes.json", format=0), "it is of another version"),
        (lambda folder: rewritten(folder / "codes.json", more=0), r"codes\.json cannot be read"),
        (lambda folder: rewritten(folder / "codes.json", children=4), "are damaged .*; make them again"),
        (lambda folder: (folder / "digits.npy").write_bytes(b""), "are damaged .*; make them again"),
        (lambda folder: np.save(folder / "digits.npy", np.zeros((3, 2), np.uint8)), "not those that codes.json"),
        (lambda folder: np.save(folder / "digits.npy", np.uint8(0)), "are damaged"),
        (lambda folder: (folder / "names.json").unlink(), "are damaged"),
        (lambda folder: (folder / "names.json").write_text("[]"), "are damaged"),
        (lambda folder: rewritten(folder / "names.json", names=["a", "b", "c"]), "not those that codes.json"),
    ],
)
def test_codes_that_are_not_whole_are_refused(codes, spoil, message):
    spoil(codes.folder)
    with pytest.raises(UserError, match=message) as refused:
        Codes.read(codes.folder)
    assert "\n" not in str(refused.value)


def test_centroids_of_other_codes_are_refused(codes, images, tmp_path):
    other = written_codes(tmp_path / "other", images, [[0], [1], [2], [0]], 3)
    (other.folder / "centroids.safetensors").replace(codes.folder / "centroids.safetensors")
    with pytest.raises(UserError, match="does not hold the centroids of these codes"):
        _ = Codes.read(codes.folder).centroids
