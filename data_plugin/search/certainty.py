"""Which networks the images tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from data_plugin.search.result import SearchResult

CONFIDENCE = 0.95
"""At which a winner has to lead a network to be told apart from it."""

FEWEST_IMAGES = 3
"""Fewer say nothing of how much images vary."""


def surely_behind(result: SearchResult, closest: int, others: Sequence[int], confidence: float) -> np.ndarray:
    """Which networks are further from the teacher than the closest one, by a paired, one-sided t test over the images.

    The closest was picked after looking, so the test has to hold for every pair of them at once (Bonferroni).

    Args:
        result: the divergences.
        closest: index of the closest network.
        others: indices of the other networks.
        confidence: that all networks that are called so are further.

    Returns:
        Mask (len(others),).
    """
    images = len(result.images)
    if images < FEWEST_IMAGES or not others:
        return np.zeros(len(others), dtype=bool)
    means, errors = result.apart(closest, others)
    pairs = len(others) * (len(others) + 1) / 2
    return means > student_t.ppf(1 - (1 - confidence) / pairs, images - 1) * errors
