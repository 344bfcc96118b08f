"""The architecture of one network: how wide its stem and how wide and deep its four stages are."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_plugin.utils.errors import UserError

EXPANSION = 4
"""Output channels of a bottleneck over the channels of its 3x3 convolution (He et al., 2016)."""

STAGES = 4

STAGE_TAPS = ("C2", "C3", "C4", "C5")
"""Names of the feature maps that stages 1 to 4 put out."""

RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks per stage of the standard bottleneck ResNets (He et al., 2016, table 1)."""

_CANONICAL = re.compile(r"d(\d+(?:-\d+){3})_w(\d+(?:-\d+){4})")


@dataclass(frozen=True, order=True)
class Arch:
    """One network of a bottleneck-ResNet search space (DATA, section 3.2 and Table 1).

    Args:
        stem: output channels of the 7x7 convolution.
        width: channels of the 3x3 convolutions in stages 1 to 4; a stage puts out four times as many.
        depth: number of bottlenecks in stages 1 to 4.

    Raises:
        UserError: if a number is not a positive integer or there are not four stages.
    """

    stem: int
    width: tuple[int, int, int, int]
    depth: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for name, values in (("width", self.width), ("depth", self.depth)):
            if not isinstance(values, tuple) or len(values) != STAGES:
                raise UserError(f"{name} is {values!r}; expected a tuple of {STAGES} integers, one a stage")
        for value in self.row:
            if type(value) is not int or value < 1:
                raise UserError(f"an architecture holds {value!r}; expected positive integers only")

    @classmethod
    def resnet50(cls) -> Arch:
        """The architecture of the standard ResNet-50."""
        return cls(stem=64, width=(64, 128, 256, 512), depth=RESNET_DEPTHS[50])

    @classmethod
    def from_paper(cls, width: Sequence[int], depth: Sequence[int]) -> Arch:
        """The architecture that the paper's tables write as five widths, the stem's first, and four depths."""
        if len(width) != STAGES + 1:
            raise UserError(f"width is {list(width)}; the paper's notation has {STAGES + 1} numbers, the stem's first")
        return cls(stem=width[0], width=_four(width[1:]), depth=_four(depth))

    @classmethod
    def from_row(cls, row: Sequence[int]) -> Arch:
        """The architecture of nine numbers: the stem, four widths, four depths."""
        stem, *rest = row
        return cls(stem=stem, width=_four(rest[:STAGES]), depth=_four(rest[STAGES:]))

    @classmethod
    def from_weights(cls, weights: Mapping[str, Any]) -> Arch:
        """The architecture of a bottleneck ResNet with these weights.

        Args:
            weights: tensors by torchvision's names, of which only names and shapes are looked at; others may be there.

        Raises:
            KeyError: with the first name that every such network has and that is missing.
        """
        stages = [f"layer{index + 1}" for index in range(STAGES)]
        sizes = {name: value.shape[0] for name, value in weights.items() if value.ndim}
        width = [sizes[name] for name in ("conv1.weight", *(f"{stage}.0.conv2.weight" for stage in stages))]
        blocks = [{name.split(".")[1] for name in weights if name.startswith(f"{stage}.")} for stage in stages]
        return cls.from_paper(width, [len(found) for found in blocks])

    @property
    def row(self) -> tuple[int, ...]:
        """Nine numbers: the stem, four widths, four depths; a row of :attr:`SearchSpace.table`."""
        return (self.stem, *self.width, *self.depth)

    @property
    def paper_width(self) -> tuple[int, ...]:
        """Widths as the paper's tables write them: the stem, then stages 1 to 4."""
        return (self.stem, *self.width)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the feature maps C2 to C5."""
        return tuple(EXPANSION * width for width in self.width)

    def fits_inside(self, other: Arch) -> bool:
        """Whether ``other``'s first channels and blocks hold this whole network."""
        return all(ours <= theirs for ours, theirs in zip(self.row, other.row, strict=True))

    def __str__(self) -> str:
        """The canonical short string, safe in file names and config values: ``d3-2-17-3_w32-48-96-192-512``."""
        return f"d{'-'.join(map(str, self.depth))}_w{'-'.join(map(str, self.paper_width))}"

    def to_json(self) -> dict[str, Any]:
        """``{"stem": 32, "width": [48, 96, 192, 512], "depth": [3, 2, 17, 3]}``."""
        return {"stem": self.stem, "width": list(self.width), "depth": list(self.depth)}

    @classmethod
    def parse(cls, value: Arch | str | Mapping[str, Any]) -> Arch:
        """An architecture from its canonical string, its JSON text or the mapping that the JSON holds.

        Raises:
            UserError: if ``value`` is none of them.
        """
        if isinstance(value, Arch):
            return value
        if isinstance(value, str):
            canonical = _CANONICAL.fullmatch(value.strip())
            if canonical:
                depth, width = ([int(number) for number in group.split("-")] for group in canonical.groups())
                return cls.from_paper(width, depth)
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(value)
        if not isinstance(value, Mapping) or set(value) != {"stem", "width", "depth"}:
            raise UserError(
                f"{value!r} is not an architecture; expected a string such as '{cls.resnet50()}' "
                f"or {json.dumps(cls.resnet50().to_json())}"
            )
        return cls(stem=value["stem"], width=_four(value["width"]), depth=_four(value["depth"]))


def _four(values: Any) -> tuple[int, int, int, int]:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != STAGES:
        raise UserError(f"{values!r} was given for the stages; expected {STAGES} integers")
    return (values[0], values[1], values[2], values[3])
