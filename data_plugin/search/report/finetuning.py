"""What winners and rivals of a search came to when they were fine-tuned alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_plugin.frameworks.finetuned import Finetuned, Weights

WINNER, RANDOM = "winner", "a random one"
"""What networks of a budget are called that are none of its rivals."""


@dataclass(frozen=True)
class Finetuning:
    """Networks of every budget, fine-tuned alike.

    Args:
        metric: the figure that counts, of those that the framework gives.
        iterations: length of every training, for classification in epochs.
        networks: per budget, by its name, what was fine-tuned.
    """

    metric: str
    iterations: int
    networks: Mapping[str, Sequence[Finetuned]]

    def values(self, budget: str, name: str, weights: Weights = "supernet") -> list[float]:
        """The metric in percent of a network of a budget, for every seed; empty where it was not fine-tuned."""
        found = (each for each in self.networks.get(budget, ()) if (each.name, each.weights) == (name, weights))
        return [each.metrics[self.metric] for each in found]

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        networks = {budget: [each.to_json() for each in found] for budget, found in self.networks.items()}
        return {"metric": self.metric, "iterations": self.iterations, "networks": networks}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finetuning:
        """What :meth:`to_json` gave."""
        networks = {
            budget: [Finetuned.from_json(each) for each in found] for budget, found in value["networks"].items()
        }
        return cls(value["metric"], value["iterations"], networks)
