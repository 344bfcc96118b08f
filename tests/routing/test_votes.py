"""Counting which sub-nets images fall to, beside the same written out image by image."""

import itertools
from collections import Counter

import numpy as np
import pytest

from data_plugin.routing.votes import Votes


def test_counts_shares_and_order_are_those_of_the_images():
    digits = np.random.default_rng(0).integers(0, 3, (50, 2)) * [1, 2] % 3
    votes = Votes.of(digits, 3)
    plain = Counter(map(tuple, digits.tolist()))
    assert votes.images == 50
    assert dict(votes.ranking) == dict(plain)
    assert [count for _, count in votes.ranking] == sorted(plain.values(), reverse=True)
    assert [votes.path(number) for number in range(9)] == list(itertools.product(range(3), repeat=2))
    assert [votes.number(path) for path in itertools.product(range(3), repeat=2)] == list(range(9))
    for path in itertools.product(range(3), repeat=2):
        assert votes.share(path) == plain[path] / 50
        assert votes.share(path[:1]) == pytest.approx(sum(plain[path[0], last] for last in range(3)) / 50)
    first, second = [count for _, count in plain.most_common(2)]
    assert votes.margin == pytest.approx((first - second) / 50)


def test_of_sub_nets_with_equally_many_images_the_first_is_taken():
    assert Votes([0, 5, 5, 1], 2, 2).first == (0, 1)


@pytest.mark.parametrize(("counts", "spread"), [([9, 0, 0, 0], 1), ([5, 5, 0, 0], 2), ([3, 3, 3, 3], 4)])
def test_spread_is_the_number_of_equal_sub_nets(counts, spread):
    assert Votes(counts, 2, 2).spread == pytest.approx(spread)


def test_confidence_is_that_of_drawing_the_images_again():
    counts = [30, 22, 8, 0]
    images = np.repeat(np.arange(4), counts)
    rng = np.random.default_rng(1)
    first = 0
    for _ in range(4_000):
        drawn = np.bincount(rng.choice(images, len(images)), minlength=4)
        first += int(drawn[0] > drawn[1:].max())
    assert Votes(counts, 2, 2).confidence == pytest.approx(first / 4_000, abs=0.05)
    assert Votes([60, 0, 0, 0], 2, 2).confidence == 1
    assert Votes([30, 30, 0, 0], 2, 2).confidence < 0.6
