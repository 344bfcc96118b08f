"""The list of classes beside label images."""

from pathlib import Path

import pytest

from data_plugin.images.class_list import read_class_list
from data_plugin.utils.errors import UserError


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "classes.txt").write_text(text, encoding=encoding)
    return folder / "classes.txt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("road\nsky", {0: "road", 1: "sky"}),
        ("\ufeffroad\r\n\r\n traffic light \r\nÄste 図\n", {0: "road", 1: "traffic light", 2: "Äste 図"}),
        ("100 car\n7 traffic light\n", {7: "traffic light", 100: "car"}),
        ("0\tvoid\n254\tlane 2", {0: "void", 254: "lane 2"}),
        ("lane 1\nlane 2", {0: "lane 1", 1: "lane 2"}),
    ],
)
def test_classes_are_listed_by_their_labels(tmp_path: Path, text: str, expected: dict[int, str]):
    found = read_class_list(write(tmp_path, text))
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no class; expected one a line"),
        (" \n\n", "lists no class; expected one a line"),
        ("road\nsky\nroad", "lists the class road twice; expected each class once"),
        ("1 road\n2 road", "lists the class road twice"),
        ("1 road\n1 sky", "lists the label 1 twice; expected each label once"),
        ("1 road\n255 sky", "gives 'sky' the label 255; expected a label of 0 to 254"),
        ("1 road\n-1 sky", "gives 'sky' the label -1; expected a label of 0 to 254"),
        ("1 road\nsky", "has the line 'sky'; expected a label of 0 to 254 and the class's name, as in the other lines"),
        ("1 road\n2", "has the line '2'; expected a label of 0 to 254"),
        ("1 road\n1.5 sky", "has the line '1.5 sky'; expected a label of 0 to 254"),
        ("\n".join(map("class{}".format, range(256))), "lists 256 classes; expected at most 255"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(UserError, match=f"classes.txt {message}") as caught:
        read_class_list(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_other_encodings_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"classes.txt cannot be read as text in UTF-8 .*; expected one class a line"):
        read_class_list(write(tmp_path, "Äste", "latin-1"))
