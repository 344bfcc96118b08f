"""What a network came to when it was fine-tuned once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from data_plugin.space import cost
from data_plugin.space.arch import Arch

Weights = Literal["supernet", "random"]
"""What a backbone starts from."""


@dataclass(frozen=True)
class Training:
    """One fine-tuning.

    Args:
        name: what the network is called.
        arch: the network.
        weights: what its backbone starts from.
        seed: the framework's seed; random weights are drawn with it too.
    """

    name: str
    arch: Arch
    weights: Weights
    seed: int


@dataclass(frozen=True)
class Finetuned(Training):
    """One fine-tuning that is done.

    Args:
        metrics: the framework's metrics in percent.
    """

    metrics: Mapping[str, float]

    @cached_property
    def flops(self) -> int:
        """Multiply-accumulates of the backbone at 224x224."""
        return int(cost.flops(self.arch))

    @property
    def training(self) -> tuple[Arch, Weights, int]:
        """What the training is known by, whatever the network is called."""
        return self.arch, self.weights, self.seed

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, the architecture as its canonical string, and its FLOPs."""
        return {**asdict(self), "arch": str(self.arch), "flops": self.flops}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finetuned:
        """What :meth:`to_json` gave."""
        fields = {name: value[name] for name in ("name", "weights", "seed", "metrics")}
        return cls(arch=Arch.parse(value["arch"]), **fields)
