"""What the target's images are like: the centroids of their features."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans

from data_plugin.features.unit_vectors import unit_vectors

CLUSTERS = 100
"""Centroids of a target, as in SimCore."""


def centroids_of(features: np.ndarray, clusters: int = CLUSTERS, seed: int = 0) -> np.ndarray:
    """The centroids of the clusters of features (SimCore, section 3.2), each of length 1.

    Args:
        features: (N, C), each of length 1.
        clusters: how many; where there are no more features than that, they are the centroids themselves.
        seed: of the clusters' start.

    Returns:
        (K, C) in double precision, see :func:`~data_plugin.features.unit_vectors.unit_vectors`.
    """
    if len(features) > clusters:
        return unit_vectors(KMeans(clusters, random_state=seed).fit(features).cluster_centers_)
    return unit_vectors(features)
