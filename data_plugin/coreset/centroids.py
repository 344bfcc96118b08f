"""What the target's images are like: the centroids of their features."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

CLUSTERS = 100
"""Centroids of a target, as in SimCore."""

GRID = 2.0**24
"""What the centroids' numbers are whole parts of.

Those of features in half precision are, too, so products of the two are whole parts of its square, and as neither is
longer than 1 a sum of them has 49 bits at the most: in double precision similarities are exact. They depend on no order
of summation, be it that of a block, of a thread or of a process, and equal images are equally near wherever they stand.
"""


def centroids_of(features: np.ndarray, clusters: int = CLUSTERS, seed: int = 0) -> np.ndarray:
    """The centroids of the clusters of features (SimCore, section 3.2), each of length 1.

    Args:
        features: (N, C), each of length 1.
        clusters: how many; where there are no more features than that, they are the centroids themselves.
        seed: of the clusters' start.

    Returns:
        (K, C) in double precision, rounded to whole parts of :data:`GRID`.
    """
    found = features.astype(np.float64)
    if len(features) > clusters:
        found = KMeans(clusters, random_state=seed).fit(features).cluster_centers_.astype(np.float64)
    return np.round(normalize(found) * GRID) / GRID
