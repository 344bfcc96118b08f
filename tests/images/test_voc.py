"""Lists of images in VOC's layout."""

from pathlib import Path

import pytest

from data_plugin.images.voc import listed_names
from data_plugin.utils.errors import UserError


def test_a_name_is_the_first_word_of_a_line(tmp_path: Path):
    (tmp_path / "car_train.txt").write_text("000001  1\n\n000002 -1\n")
    assert listed_names(tmp_path / "car_train.txt") == ["000001", "000002"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [(None, "is missing"), (b"\n \n", "lists no image"), (b"\xff\xfe0\x000\x00", "is not text")],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, contents: bytes | None, message: str):
    path = tmp_path / "trainval.txt"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(UserError, match=rf"trainval.txt {message}.*one .*a line"):
        listed_names(path)
