"""Which classes a file in COCO's format has."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_plugin.images.coco_classes import categories, find_classes
from data_plugin.utils.errors import UserError

USUAL = ("person", "car")


def write(path: Path, listed: object, **others: object) -> Path:
    path.write_text(json.dumps({**others, "categories": listed}))
    return path


def named(*names: str, first: int = 1) -> list[dict]:
    return [{"id": number, "name": name} for number, name in enumerate(names, start=first)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    listed = [{"id": 7, "name": "walker"}, {"id": 3, "name": "vehicle"}, {"id": 12, "name": "hound"}]
    return write(tmp_path / "own.json", listed)


def silently(files: Sequence[Path], *named: Sequence[str]) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_classes(files, USUAL, *named)


def test_other_categories_are_taken_in_the_order_of_their_ids_and_said(own: Path):
    with pytest.warns(UserWarning, match="own.json lists categories of its own, .*: vehicle, walker, hound"):
        assert find_classes([own, own], USUAL) == ("vehicle", "walker", "hound")


def test_the_usual_ones_stay(tmp_path: Path):
    assert silently([write(tmp_path / "a.json", named("person", "car"))]) == USUAL
    assert silently([write(tmp_path / "a.json", named("person", "car", first=40))]) == USUAL


def test_some_of_the_usual_ones_are_classes_of_their_own(tmp_path: Path):
    with pytest.warns(UserWarning, match="of its own"):
        assert find_classes([write(tmp_path / "a.json", named("car"))], USUAL) == ("car",)


@pytest.mark.parametrize("contents", [None, "{", "[]", "{}", '{"categories": []}', '{"categories": null}', "\xe9"])
def test_a_file_that_lists_none_is_passed_over(tmp_path: Path, own: Path, contents: str | None):
    bare = tmp_path / "bare.json"
    if contents is not None:
        bare.write_text(contents, encoding="latin-1")
    assert silently([bare]) == USUAL
    with pytest.warns(UserWarning, match="of its own"):
        assert find_classes([bare, own], USUAL) == ("vehicle", "walker", "hound")


def test_named_classes_pick_and_keep_their_order(own: Path):
    assert silently([own], ["hound", "vehicle", "walker"]) == ("hound", "vehicle", "walker")
    with pytest.warns(UserWarning, match="objects of the categories vehicle of .*own.json are none of .*: left out"):
        assert find_classes([own], USUAL, ["walker", "hound"]) == ("walker", "hound")


def test_the_key_may_stand_elsewhere_too(tmp_path: Path):
    images = [{"id": 1, "categories": ["a", "b"]}]
    assert categories(write(tmp_path / "a.json", named("car"), images=images)) == {1: "car"}


@pytest.mark.parametrize("bad", [{"id": "3", "name": "a"}, {"name": "a"}, {"id": 1}, {"id": 1, "name": " "}, "a"])
def test_a_category_without_id_or_name_is_refused(tmp_path: Path, bad: object):
    with pytest.raises(UserError, match=r"a.json lists the category .*; expected an id, .* and a name"):
        find_classes([write(tmp_path / "a.json", [bad])], USUAL)


@pytest.mark.parametrize(("second", "key"), [({"id": 1, "name": "b"}, "id 1"), ({"id": 2, "name": "a"}, "name 'a'")])
def test_a_category_that_is_listed_twice_is_refused(tmp_path: Path, second: dict, key: str):
    path = write(tmp_path / "a.json", [{"id": 1, "name": "a"}, second])
    with pytest.raises(UserError, match=rf"a.json lists two categories of the {key}; expected each"):
        find_classes([path], USUAL)


def test_files_that_list_different_categories_are_refused(tmp_path: Path, own: Path):
    other = write(tmp_path / "other.json", named("walker", "vehicle", "hound"))
    lacking = write(tmp_path / "lacking.json", named("vehicle", "walker"))
    for file, difference in (
        (other, "the same in another order of their ids"),
        (lacking, "hound in one of them alone"),
    ):
        message = rf"own.json and .*{file.name} list different categories \({difference}\); expected .* or --classes"
        with pytest.raises(UserError, match=message):
            find_classes([own, file], USUAL)
    assert silently([own, other], ["hound", "vehicle", "walker"]) == ("hound", "vehicle", "walker")


def test_a_name_that_a_file_lacks_is_refused(own: Path):
    message = (
        r"own.json lists no category 'dog', .* classes walker, dog; expected classes .* \(vehicle, walker, hound\)"
    )
    with pytest.raises(UserError, match=message):
        find_classes([own], USUAL, ["walker", "dog"])
    with pytest.raises(UserError, match="'walker' twice"):
        find_classes([own], USUAL, ["walker", "walker"])
