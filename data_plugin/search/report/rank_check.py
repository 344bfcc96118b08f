"""How far a search's distance ranks networks as fine-tuning does, beside what ranks them for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_plugin.space.arch import Arch

DISTANCE, CHANCE = "the distance", "chance"
"""What the search ranks by, and what ranks by nothing at all."""

TOGETHER = "all together"
"""What stands for the networks of several budgets in the place of a budget's name."""


@dataclass(frozen=True)
class Ranked:
    """One network that was fine-tuned.

    Args:
        arch: the network.
        predictors: what it was ranked by before, by name.
        values: the metric in percent, by seed; some networks may have that of the first seed alone.
    """

    arch: Arch
    predictors: Mapping[str, float]
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The metric's mean over the seeds."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Predictor:
    """How well something that trains nothing ranks networks.

    Args:
        name: what ranks.
        spearman: rank correlation with the metric, 1 where the best network is put first and so on; None where the
            metric, or what ranks, is the same for all.
        interval: bounds of it at 95 % confidence; None where there are none.
        picked: the metric of the network that it puts first; None where it holds all equal.
    """

    name: str
    spearman: float | None
    interval: tuple[float, float] | None
    picked: float | None


@dataclass(frozen=True)
class RankCheck:
    """Networks of a budget, fine-tuned alike, and how well each predictor has ranked them.

    Args:
        metric: the figure that counts, of those that the framework gives.
        length: of every training, in words.
        seeds: the seeds of trainings.
        agreement: how far two seeds rank the networks alike; None where that is not known.
        reach: what a ranking without any error can be expected to come to; None where that is not known.
        predictors: the distance, its rivals, and chance.
        networks: what was fine-tuned.
    """

    metric: str
    length: str
    seeds: Sequence[int]
    agreement: float | None
    reach: float | None
    predictors: Sequence[Predictor]
    networks: Sequence[Ranked]

    @property
    def best(self) -> float:
        """The metric of the best network."""
        return max(network.mean for network in self.networks)

    def predictor(self, name: str) -> Predictor:
        """One of the predictors, by its name."""
        return next(each for each in self.predictors if each.name == name)

    @property
    def rivals(self) -> list[Predictor]:
        """Those that rank the networks otherwise, best first."""
        ranking = (
            each for each in self.predictors if each.name not in (DISTANCE, CHANCE) and each.spearman is not None
        )
        return sorted(ranking, key=lambda each: -(each.spearman or 0))

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, architectures as their canonical strings."""
        return {
            **vars(self),
            "predictors": [vars(each) for each in self.predictors],
            "networks": [{**vars(each), "arch": str(each.arch)} for each in self.networks],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RankCheck:
        """What :meth:`to_json` gave."""
        rows = value["predictors"]
        predictors = [Predictor(**{**row, "interval": row["interval"] and tuple(row["interval"])}) for row in rows]
        networks = [Ranked(**{**row, "arch": Arch.parse(row["arch"])}) for row in value["networks"]]
        return cls(**{**value, "predictors": predictors, "networks": networks})
