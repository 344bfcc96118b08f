"""Rank statistics against what is written out by hand, with ties, few networks and constants."""

import itertools
import math
from statistics import harmonic_mean

import numpy as np
import pytest

from data_plugin.ranking.statistics import (
    agreement,
    bootstrap_interval,
    chance_interval,
    picked,
    reach,
    spearman,
)


def naive_spearman(first, second) -> float:
    """Pearson's correlation of ranks that are counted one by one."""

    def ranks(values):
        return [
            sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values
        ]

    a, b = ranks(first), ranks(second)
    mean = sum(a) / len(a)
    over = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return over / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


@pytest.mark.parametrize("count", [3, 4, 9, 24])
@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_that_of_ranks_counted_one_by_one(count, levels):
    rng = np.random.default_rng(count)
    first, second = rng.permutation(count) % levels, rng.integers(0, levels, count)
    second[:2] = 0, 1
    assert spearman(first, second) == pytest.approx(naive_spearman(first, second))


def test_equal_figures_have_no_order():
    assert math.isnan(spearman(np.ones(5), np.arange(5)))
    assert math.isnan(spearman(np.arange(5), np.zeros(5)))
    assert all(map(math.isnan, bootstrap_interval(np.arange(5), np.zeros(5))))


def test_the_interval_is_that_of_networks_drawn_again_and_again():
    rng = np.random.default_rng(0)
    first = rng.normal(size=20)
    second = first + rng.normal(size=20)
    drawn = [(chosen := rng.integers(0, 20, 20)) is not None and naive_spearman(first[chosen], second[chosen])
             for _ in range(3_000)]  # fmt: skip
    np.testing.assert_allclose(bootstrap_interval(first, second), np.quantile(drawn, [0.025, 0.975]), atol=0.04)


def test_resamples_without_an_order_are_left_out():
    # Of 4 networks every 64th resample is one network alone, and of two values every 8th is one value alone.
    interval = bootstrap_interval(np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4]))
    assert -1 <= interval.low < interval.high <= 1
    assert bootstrap_interval(np.arange(6), np.arange(6)) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("count", [4, 6])
def test_chance_is_what_all_orders_come_to(count):
    orders = [naive_spearman(range(count), order) for order in itertools.permutations(range(count))]
    interval = chance_interval(count)
    for bound, side in ((interval.low, -1), (interval.high, 1)):
        beyond = np.mean([side * order > side * bound + 1e-9 for order in orders])
        within = np.mean([side * order >= side * bound - 1e-9 for order in orders])
        assert beyond <= 0.035
        assert within >= 0.015


def test_seeds_agree_pair_by_pair():
    values = np.random.default_rng(1).normal(size=(7, 3))
    pairs = [naive_spearman(values[:, a], values[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert agreement(values) == pytest.approx(sum(pairs) / 3)
    assert math.isnan(agreement(values[:, :1]))
    assert math.isnan(agreement(np.column_stack([values[:, 0], np.zeros(7)])))


@pytest.mark.parametrize("seeds", [2, 4])
def test_reach_is_what_a_perfect_ranking_comes_to(seeds):
    """Many networks whose metric is a truth and a noise of the seed: the truth itself ranks them this well."""
    rng = np.random.default_rng(seeds)
    truth = rng.normal(size=4_000)
    values = truth[:, None] + rng.normal(size=(4_000, seeds))
    assert reach(agreement(values), seeds) == pytest.approx(spearman(truth, values.mean(axis=1)), abs=0.03)


def test_reach_where_some_networks_have_one_seed_alone():
    """Of 3 in 4 networks there is one training, of the others two: reach is of the harmonic mean of these numbers."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8_000)
    values = truth[:, None] + rng.normal(size=(8_000, 2))
    measured = np.where(np.arange(8_000) % 4 == 0, values.mean(axis=1), values[:, 0])
    expected = reach(agreement(values[::4]), harmonic_mean([2, 1, 1, 1]))
    assert expected == pytest.approx(spearman(truth, measured), abs=0.03)
    assert expected < reach(agreement(values[::4]), 2) - 0.05


def test_reach_where_seeds_agree_wholly_and_not_at_all():
    assert reach(1.0, 2) == 1
    assert reach(-1.0, 2) == reach(0.0, 3) == 0
    assert math.isnan(reach(math.nan, 1))


def test_of_equal_first_places_the_mean_is_taken():
    assert picked(np.array([1, 3, 3, 2]), np.array([10.0, 20.0, 40.0, 90.0])) == 30
