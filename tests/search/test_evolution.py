import numpy as np
import pytest

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.search.strategies.evolution import Evolution, evolve
from data_plugin.space import cost

DATA = SearchSpace.data()
SETTINGS = Evolution(population=20, generations=10)


def within_4g(table: np.ndarray) -> np.ndarray:
    return cost.flops(table) < 4e9


def distance(arch: Arch) -> float:
    """A landscape with one best network: every choice counts for itself."""
    target = Arch.from_paper((32, 64, 128, 256, 512), (3, 4, 9, 3))
    genes = zip((arch.stem, *arch.width, *arch.depth), (target.stem, *target.width, *target.depth), strict=True)
    return sum(abs(np.log(a / b)) for a, b in genes)


def test_comes_closer_than_drawing_as_many():
    measured: list[Arch] = []

    def measure(archs):
        measured.extend(archs)
        return [distance(arch) for arch in archs]

    found = evolve(DATA, within_4g, measure, SETTINGS, seed=0)
    assert len(measured) == len(set(measured)) == len(found) <= 20 * 11
    assert set(found) == set(measured) <= set(DATA)
    assert all(cost.flops(arch) < 4e9 for arch in found)
    assert [distance(arch) for arch in found] == sorted(distance(arch) for arch in found)
    drawn = DATA.sample(len(found), seed=0, within=within_4g)
    assert distance(found[0]) < min(distance(arch) for arch in drawn)
    assert found == evolve(DATA, within_4g, lambda archs: [distance(a) for a in archs], SETTINGS, seed=0)


def test_a_space_that_cannot_be_enumerated_is_not():
    huge = SearchSpace(
        stem=tuple(range(8, 65)),
        width=(tuple(range(8, 81)), tuple(range(16, 161)), tuple(range(32, 321)), tuple(range(64, 641))),
        depth=(tuple(range(1, 9)),) * 4,
    )
    assert len(huge) > 10**14
    found = evolve(huge, within_4g, lambda archs: [distance(a) for a in archs], SETTINGS, seed=0)
    assert all(arch in huge for arch in found)


def test_a_budget_with_few_networks_is_exhausted():
    allowed = [Arch.from_paper((32, 48, 96, 192, 384), (2, 2, depth, 2)) for depth in (5, 7, 9)]
    rows = {(a.stem, *a.width, *a.depth) for a in allowed}
    small = SearchSpace(stem=(32,), width=((48,), (96,), (192,), (384,)), depth=((2,), (2,), (5, 7, 9, 11), (2,)))
    fits = lambda table: np.array([tuple(row) in rows for row in table.tolist()])  # noqa: E731
    assert set(evolve(small, fits, lambda archs: [0.0] * len(archs), SETTINGS, seed=0)) == set(allowed)
    with pytest.raises(UserError, match="none within the budget"):
        evolve(small, lambda table: np.zeros(len(table), dtype=bool), lambda archs: [], SETTINGS, seed=0)


@pytest.mark.parametrize("change", [{"population": 3}, {"generations": 0}])
def test_sizes_out_of_range_are_refused(change):
    with pytest.raises(UserError, match="expected at least 1 generation of 4"):
        Evolution(**change)
