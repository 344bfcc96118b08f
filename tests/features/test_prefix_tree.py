import pytest

from data_plugin import SearchSpace
from data_plugin.features.prefix_tree import tree_flops, tree_order
from data_plugin.space import cost

DATA = SearchSpace.data()


def tera(flops: float) -> str:
    return f"{flops / 1e12:.1f}"


@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
def test_one_network_costs_what_it_costs_alone(size):
    for arch in DATA.sample(5, seed=0):
        assert tree_flops([arch], size) == cost.flops(arch, size)


@pytest.mark.slow
def test_all_networks_of_the_papers_space():
    """Per image: 35.2 T multiply-accumulates for the whole space, a sixteenth of running each network."""
    tree, naive = tree_flops(tree_order(list(DATA))), int(cost.flops(DATA.table).sum())
    assert (tera(tree), tera(naive)) == ("35.2", "569.8")
    with_the_teacher_each_time = naive + len(DATA) * cost.flops(DATA.largest)
    assert f"{naive / tree:.1f} {with_the_teacher_each_time / tree:.1f}" == "16.2 53.7"


def test_fewer_stages_cost_less():
    archs = tree_order(DATA.sample(50, seed=0))
    costs = [tree_flops(archs, last_stage=stage) for stage in range(4)]
    assert costs == sorted(set(costs))
    assert costs[-1] < sum(cost.flops(arch) for arch in archs)
