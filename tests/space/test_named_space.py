"""Search spaces by name and from files."""

import json

import pytest

from data_plugin import SearchSpace, UserError
from data_plugin.space.named_space import read_space

ONE = {"stem": [64], "width": [[64], [128], [256], [512]], "depth": [[3], [4], [6], [3]]}


def test_a_name_is_the_space_of_that_name():
    assert read_space("micro") == SearchSpace.micro()
    assert read_space("data") == SearchSpace.data()


def test_a_file_is_the_space_that_it_holds(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SearchSpace.micro().to_json()))
    assert read_space(str(path)) == SearchSpace.micro()
    path.write_text(json.dumps(ONE))
    assert (len(read_space(str(path))), str(read_space(str(path)).largest)) == (1, "d3-4-6-3_w64-64-128-256-512")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[1]", "expected a search space with stem, width and depth"),
        ('{"stem": [8]}', "is not a search space"),
        (json.dumps({**ONE, "stem": [8, 4]}), "must be positive and ascending"),
        (json.dumps({**ONE, "depth": [[1], [1], [1]]}), "has 4 stages"),
        (json.dumps({**ONE, "stem": [8.5]}), "no whole numbers"),
        (json.dumps({**ONE, "stem": ["8"]}), "is not a search space|no whole numbers"),
    ],
)
def test_a_file_that_holds_no_space_is_refused(tmp_path, text, message):
    path = tmp_path / "space.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_space(str(path))


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="'macro' is not a search space; expected data, mini, micro, or the path"):
        read_space("macro")
