"""SimCore's choice: in every round each centroid takes the image that is nearest to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_plugin.coreset.remaining import Remaining

REFERENCE = 20
"""The round whose mean similarity the later ones are compared with; no earlier one is the last."""

SHARE = 0.95
"""The part of that mean below which a round is too far from the target."""

MOST = 50
"""Images of a coreset for each of the target's, at the most, where no budget is given."""


@dataclass(frozen=True)
class Round:
    """What each centroid took.

    Args:
        images: an image for each centroid; the same one may be there more than once.
        similarities: its cosine with the centroid.
    """

    images: tuple[int, ...]
    similarities: tuple[float, ...]

    @property
    def similarity(self) -> float:
        """The mean over the centroids."""
        return math.fsum(self.similarities) / len(self.similarities)


@dataclass(frozen=True)
class Rounds:
    """A coreset and how it came about.

    Args:
        images: the images in the order in which they were taken.
        rounds: the rounds that they are of; of the last one those over the budget are left out.
        stopped: "similarity" fell below the threshold, the "budget" was reached, or all images were "taken".
        threshold: the least mean similarity of a round; None without one, or where no round came to be compared.
        discarded: the round that fell below it.
    """

    images: Sequence[int]
    rounds: Sequence[Round]
    stopped: Literal["similarity", "budget", "taken"]
    threshold: float | None = None
    discarded: Round | None = None


def choose(remaining: Remaining, budget: int, stop: bool) -> Rounds:
    """Let every centroid take its most similar image, round after round (SimCore, section 3.2).

    Within a round several centroids may take the same image, which counts once.

    Args:
        remaining: the images; those that are taken are taken away.
        budget: images at the most; the last round is cut off there.
        stop: end before the first round whose mean similarity is below :data:`SHARE` of that of round
            :data:`REFERENCE`.
    """
    images: list[int] = []
    rounds: list[Round] = []
    threshold = None
    while len(images) < budget:
        found = [remaining.nearest(centroid) for centroid in range(len(remaining.centroids))]
        nearest = [each for each in found if each is not None]
        if not nearest:
            return Rounds(images, rounds, "taken", threshold)
        taken = Round(*zip(*nearest, strict=True))
        if stop and len(rounds) + 1 == REFERENCE:
            threshold = SHARE * taken.similarity
        if threshold is not None and taken.similarity < threshold:
            return Rounds(images, rounds, "similarity", threshold, taken)
        rounds.append(taken)
        images += list(dict.fromkeys(taken.images))[: budget - len(images)]
        remaining.remove(taken.images)
    return Rounds(images, rounds, "budget", threshold)
