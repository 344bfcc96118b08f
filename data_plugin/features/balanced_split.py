"""Splitting features into clusters whose sizes stay within bounds."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from data_plugin.features.unit_vectors import unit_vectors

ROUNDS = 30
"""How often centroids move at the most."""

SOFTNESS, ITERATIONS = np.array([0.2, 0.05, 0.02]), 20
"""How undecided images are in Sinkhorn's iteration, as parts of their similarities' spread, and steps with each."""

NEAR = 1e-3
"""Where the iteration ends: the logarithm of the images that choose a cluster, by those that it may have."""

STEPS = 20
"""Of k-means, whose steps go on with sizes within bounds."""


def balanced_centroids(features: np.ndarray, children: int, least: int, most: int, seed: int) -> np.ndarray:
    """The centroids of balanced clusters: k-means, then its steps go on with :func:`deal` in place of the nearest.

    Args:
        features: (N, C), each of length 1, of numbers in half precision.
        children: how many clusters.
        least: images of a cluster at the least; at least 1.
        most: images of a cluster at the most.
        seed: of the start of k-means.

    Returns:
        (children, C), see :func:`~data_plugin.features.unit_vectors.unit_vectors`.
    """
    # Several threads add up in any order; and of equal images there may be more than clusters can tell apart.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(children, n_init=3, max_iter=STEPS, random_state=seed).fit(features)
    centroids = unit_vectors(found.cluster_centers_)
    parts = deal(features @ centroids.T, least, most)
    for _ in range(ROUNDS):
        before = parts
        centroids = unit_vectors(np.stack([features[parts == child].sum(axis=0) for child in range(children)]))
        parts = deal(features @ centroids.T, least, most)
        if (parts == before).all():
            break
    return centroids


def deal(similarities: np.ndarray, least: int, most: int) -> np.ndarray:
    """Deal images to clusters: each has as many as are nearest to it, as far as its bounds let it.

    Clusters that too many images are near to ask a price of them, which Sinkhorn's iteration finds (Cuturi, 2013); as
    optimal transport is linear in the similarities, they come to nearly the largest sum that such sizes allow. What is
    still too many then moves by deferred acceptance (Gale and Shapley, 1962): every image asks for the cluster that it
    gains most from, one that is full keeps those that would lose most, and the others ask for their next. It takes
    a few passes over N x K numbers.

    Args:
        similarities: (N, K), of every image to every cluster.
        least: images of a cluster at the least, N / K at the most.
        most: images of a cluster at the most, N / K at the least.

    Returns:
        The number of each image's cluster, (N,).
    """
    sizes = _sizes_near(np.bincount(similarities.argmax(axis=1), minlength=similarities.shape[1]), least, most)
    gains = similarities - _prices(similarities, sizes)
    order = np.argsort(-gains, axis=1, kind="stable")
    # Only those have a last choice left whom all other clusters have refused, and these are full: it has room for them.
    losses = -np.diff(np.take_along_axis(gains, order, axis=1), axis=1, append=-np.inf)
    choices = np.zeros(len(gains), np.int64)
    while True:
        clusters = np.take_along_axis(order, choices[:, None], axis=1)[:, 0]
        over = np.bincount(clusters, minlength=len(sizes)) - sizes
        if not over.any():
            return clusters
        for cluster in np.flatnonzero(over > 0):
            asking = np.flatnonzero(clusters == cluster)
            lose = losses[asking, choices[asking]]
            choices[asking[np.argsort(lose, kind="stable")[: over[cluster]]]] += 1


def _prices(similarities: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What each cluster has to ask for, so that about as many images choose it as its size is."""
    prices = np.zeros((len(sizes), 1))
    by_cluster = np.ascontiguousarray(similarities.T)  # sums over few clusters are slow along rows
    spread = float(np.ptp(by_cluster, axis=0).mean())
    if not spread:
        return prices[:, 0]
    for softness in spread * SOFTNESS:
        for _ in range(ITERATIONS):
            gains = (by_cluster - prices) / softness
            shares = np.exp(gains - gains.max(axis=0))
            shares /= shares.sum(axis=0)
            excess = np.log((shares.sum(axis=1) + np.finfo(float).tiny) / sizes)
            prices += softness * excess[:, None]
            if np.abs(excess).max() < NEAR:
                break
    return prices[:, 0]


def _sizes_near(counts: np.ndarray, least: int, most: int) -> np.ndarray:
    """Sizes within bounds, of the same sum as the counts and near to them: all that can be move by the same."""
    sizes = counts.clip(least, most)
    while left := int(counts.sum() - sizes.sum()):
        free = np.flatnonzero(sizes < most) if left > 0 else np.flatnonzero(sizes > least)
        step = int(left / len(free)) or (1 if left > 0 else -1)
        moved = free[: abs(left)]
        sizes[moved] = (sizes[moved] + step).clip(least, most)
    return sizes
