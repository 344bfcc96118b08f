"""Centroids of length 1, whose similarities to features in half precision are exact."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import normalize

GRID = 2.0**24
"""What the vectors' numbers are whole parts of.

Those of features in half precision are, too, so products of the two are whole parts of its square, and as neither is
longer than 1 a sum of them has 49 bits at the most: in double precision similarities are exact. They depend on no order
of summation, be it that of a block, of a thread or of a process, and equal images are equally near wherever they stand.
"""


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors (K, C) scaled to length 1, in double precision, rounded to whole parts of :data:`GRID`."""
    return np.round(normalize(vectors.astype(np.float64)) * GRID) / GRID
