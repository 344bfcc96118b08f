import numpy as np
import pytest

from data_plugin import SearchSpace, UserError
from data_plugin.space import cost
from data_plugin.space.budget import Budget, all_groups

DATA = SearchSpace.data()
COSTS = {"flops": cost.flops, "params": cost.params}


def fitting(budget: Budget) -> np.ndarray:
    return budget.fits(DATA.table, COSTS)


def test_a_group_is_its_interval():
    flops = cost.flops(DATA.table)
    np.testing.assert_array_equal(fitting(Budget.group("3-4")), (flops >= 3e9) & (flops < 4e9))
    assert fitting(Budget.group("1.5-1.7")).sum() == ((flops >= 1.5e9) & (flops < 1.7e9)).sum() > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flops<=4.0G", lambda flops, params: flops <= 4e9),
        ("params<30M", lambda flops, params: params < 30e6),
        ("flops <= 4G and params >= 2.5e1 M", lambda flops, params: (flops <= 4e9) & (params >= 25e6)),
        ("flops>4000M and flops<=5G", lambda flops, params: (flops > 4e9) & (flops <= 5e9)),
    ],
)
def test_expressions_bound_what_they_say(text, expected):
    mask = expected(cost.flops(DATA.table), cost.params(DATA.table))
    assert 0 < mask.sum() < len(DATA)
    np.testing.assert_array_equal(fitting(Budget.parse(text)), mask)


def test_only_bounded_quantities_are_asked_for():
    budget = Budget.parse("latency<=12ms and memory<=2GB")
    asked = {"latency": lambda table: np.full(len(table), 0.012), "memory": lambda table: np.full(len(table), 2**31)}
    assert budget.quantities == ("latency", "memory")
    assert budget.fits(DATA.table, asked).all()
    assert not budget.fits(DATA.table, {**asked, "latency": lambda table: np.full(len(table), 0.0121)}).any()


def test_the_papers_groups():
    assert [group.name for group in all_groups(DATA, COSTS)] == ["1-2", "2-3", "3-4", "4-5", "5-6", "6-7", "7-8"]


@pytest.mark.parametrize("space", [SearchSpace.micro(), SearchSpace.mini()])
def test_a_space_below_the_papers_groups_is_cut_into_five_of_about_as_many_networks(space):
    groups = all_groups(space, COSTS)
    inside = np.array([group.fits(space.table, COSTS) for group in groups])
    assert len(groups) == 5
    assert (inside.sum(axis=0) == 1).all()
    assert (abs(inside.sum(axis=1) / len(space) - 0.2) < 0.02).all()


def test_a_space_of_one_network_is_one_group():
    one = SearchSpace(stem=(8,), width=((8,), (8,), (8,), (8,)), depth=((1,), (1,), (1,), (1,)))
    (group,) = all_groups(one, COSTS)
    assert group.fits(one.table, COSTS).all()


@pytest.mark.parametrize("name", ["3-4", "flops<=4.0G and params<=30M", "latency < 12ms"])
def test_folders_are_plain_and_distinct(name):
    folder = Budget(name, ()).folder
    assert folder == {"3-4": "3-4", "latency < 12ms": "latency_-below-_12ms"}.get(
        name, "flops-max-4.0G_and_params-max-30M"
    )


@pytest.mark.parametrize("text", ["3", "3-", "4-3", "a-b", "3-3"])
def test_what_is_no_group_is_refused(text):
    with pytest.raises(UserError, match="group"):
        Budget.group(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops", "is not a budget"),
        ("flops<=4G or params<=3M", "is not a budget"),
        ("speed<=4G", "'speed' in 'speed<=4G' cannot be bounded"),
        ("latency<=12", "latency is given in ms, s, us"),
        ("params<=3GB", "params is given in none, K, M, G"),
        ("", "is not a budget"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Budget.parse(text)


def test_a_budget_without_a_network_gives_the_range():
    Budget.group("3-4").require_any(DATA, COSTS)
    with pytest.raises(UserError, match=r"within 16-17: its 85293 networks have flops 1\.67G to 15\.5G"):
        Budget.group("16-17").require_any(DATA, COSTS)
    with pytest.raises(UserError, match=r"params 9\.73M to 84\.8M"):
        Budget.parse("params<=1M").require_any(DATA, COSTS)
