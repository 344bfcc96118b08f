"""How images reach a network: channel order and normalisation, which fine-tuning has to share with pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_plugin.utils.errors import UserError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputFormat:
    """Channel order, and the mean and standard deviation that are taken out of every channel.

    Args:
        channel_order: "RGB" or "BGR".
        mean: per channel, in that order, in units of 0 to 255.
        std: per channel, in that order, in units of 0 to 255.

    Raises:
        UserError: if the order is another word, or mean and std are not three numbers with std above 0.
    """

    channel_order: str
    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if self.channel_order not in ("RGB", "BGR"):
            raise UserError(f"the channel order is {self.channel_order!r}; expected 'RGB' or 'BGR'")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise UserError(f"mean {self.mean} and std {self.std} must hold three numbers each, std above 0")

    @classmethod
    def imagenet(cls) -> InputFormat:
        """RGB with ImageNet's statistics, as self-supervised pre-training and the papers' recipes have it."""
        return cls("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

    def require(self, other: InputFormat, what: str) -> None:
        """Check that another format feeds a network the same numbers.

        Args:
            other: the format to compare.
            what: what has that format, named in the error.

        Raises:
            UserError: if the order differs, or a mean or std by over 0.5 of 255 grey levels.
        """
        apart = (abs(a - b) for a, b in zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True))
        if other.channel_order != self.channel_order or max(apart) > 0.5:
            raise UserError(
                f"{what} feeds {other}, but the supernet was pre-trained on {self}: "
                "give the config the supernet's channel order, mean and std"
            )

    def __str__(self) -> str:
        return f"{self.channel_order} with mean {_short(self.mean)} and std {_short(self.std)}"

    def to_json(self) -> dict[str, Any]:
        """``{"channel_order": "RGB", "mean": [...], "std": [...]}``."""
        return {"channel_order": self.channel_order, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputFormat:
        """The format that :meth:`to_json` wrote."""
        return cls(value["channel_order"], _triple(value["mean"]), _triple(value["std"]))


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return (red, green, blue)


def _short(values: Triple) -> str:
    return "/".join(f"{value:g}" for value in values)
