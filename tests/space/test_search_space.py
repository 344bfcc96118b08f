from collections import Counter

import numpy as np
import pytest
from samples import SPACE

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.space import cost

DATA = SearchSpace.data()


def test_table_1():
    assert len(DATA) == 85_293 == len(DATA.table)
    assert DATA.smallest == Arch.from_paper((32, 48, 96, 192, 384), (2, 2, 5, 2))
    assert DATA.largest == Arch.from_paper((64, 80, 160, 320, 640), (4, 6, 29, 4))


def test_membership():
    assert Arch.from_paper((32, 48, 96, 192, 512), (3, 2, 17, 3)) in DATA
    assert Arch.resnet50() not in DATA
    assert "d3-2-17-3_w32-48-96-192-512" not in DATA


@pytest.mark.parametrize("space", [SPACE, SearchSpace.micro()])
def test_iteration_is_fixed_complete_and_that_of_the_table(space):
    archs = list(space)
    assert archs == sorted(archs) == list(space)
    assert len(set(archs)) == len(space)
    assert all(arch in space for arch in archs)
    rows = [[arch.stem, *arch.width, *arch.depth] for arch in archs]
    assert rows == space.table.tolist()


def test_sampling_is_seeded_and_distinct():
    one = DATA.sample(100, seed=0)
    assert one == DATA.sample(100, seed=0)
    assert one != DATA.sample(100, seed=1)
    assert len(set(one)) == 100
    assert all(arch in DATA for arch in one)


def test_sampling_within_a_budget_is_uniform_over_what_fits():
    most = sorted(cost.flops(SPACE.table))[7]
    fitting = [arch for arch in SPACE if cost.flops(arch) < most]
    draws = 4000
    counts = Counter(
        SPACE.sample(1, seed=seed, within=lambda table: cost.flops(table) < most)[0]
        for seed in range(10_000, 10_000 + draws)
    )
    assert set(counts) == set(fitting)
    expected = draws / len(fitting)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(fitting) == 7
    assert chi_squared < 22.46  # the 99.9 % quantile at 6 degrees of freedom


def test_fewer_than_asked_when_fewer_exist_and_it_says_so():
    with pytest.warns(UserWarning, match="only 34 of the space's 85293 fit"):
        found = DATA.sample(100, seed=0, within=lambda table: cost.flops(table) < 2e9)
    assert len(found) == 34
    assert all(1e9 <= cost.flops(arch) < 2e9 for arch in found)


def test_all_that_fit_are_found():
    most = cost.params(SPACE.largest)
    found = SPACE.fitting(lambda table: cost.params(table) < most)
    assert found == [arch for arch in SPACE if cost.params(arch) < most]


def test_draw_reaches_every_network():
    generator = np.random.default_rng(0)
    assert {SPACE.draw(generator) for _ in range(5_000)} == set(SPACE)


def test_json_round_trip():
    assert SearchSpace.from_json(DATA.to_json()) == DATA
    with pytest.raises(UserError, match="not a search space"):
        SearchSpace.from_json({"stem": [32]})


@pytest.mark.parametrize("change", [{"stem": ()}, {"stem": (8, 4)}, {"stem": (0, 4)}, {"width": ((4,),) * 3}])
def test_bad_choices_are_refused(change):
    choices = {"stem": (4,), "width": ((4,),) * 4, "depth": ((1,),) * 4, **change}
    with pytest.raises(UserError):
        SearchSpace(**choices)
