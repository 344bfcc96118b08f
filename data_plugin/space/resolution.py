"""At which strides and dilations a network runs: the same weights give a segmenter larger maps than a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_plugin.space.arch import STAGES
from data_plugin.space.cost import STRIDES
from data_plugin.utils.errors import UserError

Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Resolution:
    """Strides and dilations of the four stages, by default those of pre-training (output stride 32).

    Args:
        strides: strides of the four stages.
        dilations: dilations of their 3x3 convolutions.
        contract_dilation: halve the dilation of every stage's first bottleneck, as that option of MMSegmentation's
            ResNet.

    Raises:
        UserError: if there are not four of each, or one is below 1.
    """

    strides: Four = STRIDES
    dilations: Four = (1, 1, 1, 1)
    contract_dilation: bool = False

    def __post_init__(self) -> None:
        for name, values in (("strides", self.strides), ("dilations", self.dilations)):
            if len(values) != STAGES or not all(type(value) is int and value >= 1 for value in values):
                raise UserError(f"{name} are {values!r}; expected {STAGES} integers of at least 1, one a stage")

    def options(self) -> dict[str, Any]:
        """The keywords of :class:`DynamicResNet` and :class:`DATAResNet`."""
        return {"strides": self.strides, "dilations": self.dilations, "contract_dilation": self.contract_dilation}
