"""The sub-nets that a task's images fall to, and how sure it is which of them has most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data_plugin.features.codes import leaf_numbers

RESAMPLES = 1_000
"""How often the images are drawn again, with replacement."""


@dataclass(frozen=True)
class Votes:
    """How many images fall to each sub-net.

    Args:
        counts: by sub-net, in the order of the paths.
        children: groups in a stage.
        levels: stages with groups.
        seed: of the resamples.
    """

    counts: Sequence[int]
    children: int
    levels: int
    seed: int = 0

    @classmethod
    def of(cls, digits: np.ndarray, children: int, seed: int = 0) -> Votes:
        """Those of images.

        Args:
            digits: their codes, (N, levels).
            children: see the class.
            seed: see the class.
        """
        levels = digits.shape[1]
        counts = np.bincount(leaf_numbers(digits, children), minlength=children**levels)
        return cls(counts.tolist(), children, levels, seed)

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(self.counts)

    @cached_property
    def ranking(self) -> list[tuple[tuple[int, ...], int]]:
        """Sub-nets with the number of their images, most first; those without any are left out."""
        order = np.argsort(-np.asarray(self.counts), kind="stable").tolist()
        return [(self.path(number), self.counts[number]) for number in order if self.counts[number]]

    @property
    def first(self) -> tuple[int, ...]:
        """The sub-net with most images; of several the first."""
        return self.ranking[0][0]

    def path(self, number: int) -> tuple[int, ...]:
        """The path of a sub-net."""
        return tuple(int(digit) for digit in np.unravel_index(number, (self.children,) * self.levels))

    def number(self, path: Sequence[int]) -> int:
        """The place of a sub-net in the order of the paths."""
        return int(np.ravel_multi_index(tuple(path), (self.children,) * self.levels))

    def share(self, path: Sequence[int]) -> float:
        """The part of the images that fall to a sub-net, or to those whose paths begin so."""
        below = np.asarray(self.counts).reshape((self.children,) * self.levels)[tuple(path)]
        return float(below.sum()) / self.images

    @property
    def margin(self) -> float:
        """By how large a part of the images the first sub-net is ahead of the second."""
        first, second = [*(count for _, count in self.ranking), 0][:2]
        return (first - second) / self.images

    @property
    def spread(self) -> float:
        """The number of sub-nets that would have the same entropy if all had equally many images; 1 at the least."""
        shares = np.asarray([count for _, count in self.ranking]) / self.images
        return math.exp(-float(shares @ np.log(shares)))

    @cached_property
    def confidence(self) -> float:
        """In which part of the resamples of the images the first sub-net has more of them than any other."""
        counts = np.asarray(self.counts)
        drawn = np.random.default_rng(self.seed).multinomial(self.images, counts / self.images, RESAMPLES)
        number = self.number(self.first)
        others = np.delete(drawn, number, axis=1).max(axis=1)
        return float((drawn[:, number] > others).mean())

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "images": self.images,
            "first": list(self.first),
            "share": self.share(self.first),
            "shares_by_level": [self.share(self.first[: level + 1]) for level in range(self.levels)],
            "margin": self.margin,
            "spread": self.spread,
            "confidence": self.confidence,
            "counts": list(self.counts),
        }
