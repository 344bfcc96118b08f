"""The Pareto front: what nothing else is better than in one respect without being worse in another."""

from __future__ import annotations

import numpy as np


def pareto_front(values: np.ndarray) -> list[int]:
    """Rows that no other row is at most as large as in every column; of equal rows the first.

    Args:
        values: shape (N, columns), every column to be small.

    Returns:
        Indices of the rows, ascending in the first column.
    """
    front: list[int] = []
    # Whatever beats a row comes before it in this order, and has then either a place or someone who beats it as well.
    for index in np.lexsort(values.T[::-1]).tolist():
        if not (values[front] <= values[index]).all(axis=1).any():
            front.append(index)
    return front
