"""The building blocks that a space's networks are put together from, and how many of each a network has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_plugin.space.arch import EXPANSION, STAGES
from data_plugin.space.cost import STRIDES
from data_plugin.space.search_space import SearchSpace


@dataclass(frozen=True)
class Block:
    """A stem, the first bottleneck of a stage, or one of the later ones, which are all alike.

    Args:
        kind: which of these.
        stage: 0 to 3, 0 for a stem.
        channels: channels of its input.
        width: channels of the stem, or of the bottleneck's 3x3 convolution.
        size: height and width of its input in pixels.
        stride: stride of the bottleneck's 3x3 convolution.
    """

    kind: Literal["stem", "first", "later"]
    stage: int
    channels: int
    width: int
    size: tuple[int, int]
    stride: int

    def __str__(self) -> str:
        if self.kind == "stem":
            return f"a stem of {self.width} channels"
        ways = f"{self.channels} to {EXPANSION * self.width} channels"
        return f"a {self.kind} block of stage {self.stage + 1} from {ways}"

    def count(self, table: np.ndarray) -> np.ndarray:
        """How many of this block networks (N, 9) have, (N,)."""
        stem, widths, depths = table[:, 0], table[:, 1 : 1 + STAGES], table[:, 1 + STAGES :]
        if self.kind == "stem":
            return (stem == self.width).astype(np.int64)
        of_width = widths[:, self.stage] == self.width
        if self.kind == "later":
            return of_width * (depths[:, self.stage] - 1)
        incoming = stem if self.stage == 0 else EXPANSION * widths[:, self.stage - 1]
        return (of_width & (incoming == self.channels)).astype(np.int64)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its convolutions for one image."""
        inner = _area(self.size)
        if self.kind == "stem":
            return _area(smaller(self.size, 2)) * self.channels * 7 * 7 * self.width
        shortcut = self.channels * EXPANSION * self.width if self.kind == "first" else 0
        outer = 9 * self.width**2 + EXPANSION * self.width**2 + shortcut
        return inner * self.channels * self.width + _area(smaller(self.size, self.stride)) * outer


def blocks_of(space: SearchSpace, input_size: tuple[int, int], strides: Sequence[int] = STRIDES) -> list[Block]:
    """All blocks of a space: the 85,293 networks of the paper's are put together from 51.

    Args:
        space: the search space.
        input_size: height and width of the images in pixels.
        strides: strides of the four stages.
    """
    blocks = [Block("stem", 0, 3, width, input_size, 2) for width in space.stem]
    size = smaller(smaller(input_size, 2), 2)
    incoming = space.stem
    for stage, widths in enumerate(space.width):
        stride = strides[stage]
        blocks += [Block("first", stage, channels, w, size, stride) for channels in incoming for w in widths]
        size = smaller(size, stride)
        if space.depth[stage][-1] > 1:
            blocks += [Block("later", stage, EXPANSION * width, width, size, 1) for width in widths]
        incoming = tuple(EXPANSION * width for width in widths)
    return blocks


def block_counts(blocks: Sequence[Block], table: np.ndarray) -> np.ndarray:
    """How many of each block networks (N, 9) have, (N, blocks)."""
    return np.column_stack([block.count(table) for block in blocks])


def smaller(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width behind a convolution or pooling of that stride with 'same' padding."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
