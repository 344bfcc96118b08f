import json

import pytest

from data_plugin import Arch, UserError

ARCH = Arch(stem=32, width=(48, 96, 192, 512), depth=(3, 2, 17, 3))


def test_round_trips():
    assert Arch.parse(str(ARCH)) == ARCH
    assert Arch.parse(json.dumps(ARCH.to_json())) == ARCH
    assert Arch.parse(ARCH.to_json()) == ARCH
    assert Arch.parse(ARCH) is ARCH
    assert Arch.from_paper(ARCH.paper_width, ARCH.depth) == ARCH
    assert Arch.from_row(ARCH.row) == ARCH


def test_forms():
    assert str(ARCH) == "d3-2-17-3_w32-48-96-192-512"
    assert ARCH.to_json() == {"stem": 32, "width": [48, 96, 192, 512], "depth": [3, 2, 17, 3]}
    assert ARCH.paper_width == (32, 48, 96, 192, 512)
    assert ARCH.out_channels == (192, 384, 768, 2048)


def test_is_hashable_ordered_and_frozen():
    wider = Arch(stem=48, width=ARCH.width, depth=ARCH.depth)
    assert len({ARCH, Arch.parse(str(ARCH)), wider}) == 2
    assert sorted([wider, ARCH]) == [ARCH, wider]
    with pytest.raises(AttributeError):
        ARCH.stem = 64  # type: ignore[misc]


def test_fits_inside():
    assert Arch.resnet50().fits_inside(Arch(64, (80, 160, 320, 640), (4, 6, 29, 4)))
    assert not Arch.resnet50().fits_inside(ARCH)


@pytest.mark.parametrize(
    "value",
    [
        "resnet50",
        "d3-2-17_w32-48-96-192-512",
        "{}",
        {"stem": 32},
        5,
        {"stem": 32, "width": [1, 2, 3], "depth": [1] * 4},
    ],
)
def test_what_is_no_architecture_is_refused(value):
    with pytest.raises(UserError, match=r"architecture|stages"):
        Arch.parse(value)


@pytest.mark.parametrize("change", [{"stem": 0}, {"stem": 32.0}, {"depth": (3, 2, 17)}, {"width": (48, 96, 192, -1)}])
def test_numbers_that_make_no_network_are_refused(change):
    with pytest.raises(UserError):
        Arch(**{"stem": 32, "width": (48, 96, 192, 512), "depth": (3, 2, 17, 3), **change})
