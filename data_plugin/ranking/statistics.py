"""How far a ranking of networks agrees with what they come to, how sure that is, and what it could reach at most."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, pearsonr, rankdata

CONFIDENCE = 0.95
"""Of every interval."""

RESAMPLES = 2_000
"""Sets of networks that an interval is taken from."""


class Interval(NamedTuple):
    """Bounds at :data:`CONFIDENCE`; NaN where they cannot be had."""

    low: float
    high: float


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, -1 to 1, of two figures of the same networks; equal ones share their mean rank.

    Args:
        first: (N,).
        second: (N,).

    Returns:
        The correlation; NaN where a figure is the same for all networks, which then have no order.
    """
    return float(_along(first, second))


def bootstrap_interval(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """Percentile bootstrap of :func:`spearman` over the networks (Efron and Tibshirani, 1993, chapter 13).

    Resamples in which a figure is the same for all networks have no correlation and are left out.

    Args:
        first: (N,).
        second: (N,).
        seed: of the resamples.
    """
    if math.isnan(spearman(first, second)):
        return Interval(math.nan, math.nan)
    with warnings.catch_warnings(action="ignore"):  # of the resamples without a correlation
        found = bootstrap(
            (first, second),
            _along,
            paired=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return _bounds(found.bootstrap_distribution)


def _along(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson's correlation of the ranks along an axis."""
    with warnings.catch_warnings(action="ignore"):  # where all are equal, which is told by NaN
        return pearsonr(rankdata(first, axis=axis), rankdata(second, axis=axis), axis=axis).statistic


def chance_interval(count: int, seed: int = 0) -> Interval:
    """Between which correlations so many networks are ranked by an order drawn at random.

    Args:
        count: number of networks, at least 2.
        seed: of the orders.
    """
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (RESAMPLES, 1)), axis=1)
    squares = ((orders - np.arange(count)) ** 2).sum(axis=1)
    return _bounds(1 - 6 * squares / (count * (count**2 - 1)))


def agreement(values: np.ndarray) -> float:
    """How far trainings that differ by their seed alone rank networks alike: Spearman's mean over the pairs of seeds.

    Args:
        values: the metric by network and seed, (N, seeds).

    Returns:
        The mean; NaN for a single seed, or where a seed gives all networks the same.
    """
    pairs = itertools.combinations(values.T, 2)
    return float(np.mean([spearman(*pair) for pair in pairs])) if values.shape[1] > 1 else math.nan


def reach(agreed: float, seeds: float) -> float:
    """What a ranking without any error can be expected to agree with the mean over the seeds, as these agree.

    It is the square root of the reliability of that mean (Spearman, 1910, and Brown, 1910), as if ranks were
    measurements with an error of the same size for all networks; so it is about right.

    Args:
        agreed: what :func:`agreement` gave.
        seeds: number of seeds of every network; where they have different numbers the harmonic mean, since the error
            of a network's mean falls as one over its number.

    Returns:
        0 to 1; NaN where the agreement is.
    """
    if agreed <= 0:
        return 0.0
    return math.sqrt(seeds * agreed / (1 + (seeds - 1) * agreed))


def picked(predictor: np.ndarray, metric: np.ndarray) -> float:
    """The metric of the network that a predictor puts first, in the mean over those that it holds equal.

    Args:
        predictor: higher is taken for better, (N,).
        metric: (N,).
    """
    return float(metric[predictor == predictor.max()].mean())


def _bounds(values: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
