"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from typing import NamedTuple


class Accuracy(NamedTuple):
    """Parts of the images, 0 to 1, whose class is the first guess, and among the first five."""

    top1: float
    top5: float
