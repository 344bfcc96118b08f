"""Layers whose first channels all sub-nets share and whose others come in groups, of which a sub-net has one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.backbones.sliced import SlicedBatchNorm2d

PRIVATE = 8
"""Of so many channels of the widest network one is a group's own, and at least one in all."""

Path = tuple[int, ...]
"""Which sub-net: its group at each level, the coarsest level first."""


@dataclass(frozen=True)
class GroupedChannels:
    """How channels are stored: those that are shared, then those of one group after the other.

    Args:
        shared: channels that all sub-nets have.
        own: channels of a group.
        groups: number of groups.
        level: which entry of a path names the group; of no meaning where there is one group.
    """

    shared: int
    own: int
    groups: int = 1
    level: int = 0

    @classmethod
    def of(cls, width: int, groups: int = 1, level: int = 0) -> GroupedChannels:
        """Those of a layer whose widest network has ``width`` channels."""
        own = max(1, width // PRIVATE)
        return cls(width - own, own, groups, level)

    def times(self, factor: int) -> GroupedChannels:
        """The same with ``factor`` channels in the place of each."""
        return replace(self, shared=factor * self.shared, own=factor * self.own)

    @property
    def width(self) -> int:
        """Channels of the widest network."""
        return self.shared + self.own

    @property
    def stored(self) -> int:
        """Channels of all groups together."""
        return self.shared + self.groups * self.own

    def group(self, path: Path) -> int:
        """The group of a sub-net."""
        return path[self.level] if self.groups > 1 else 0

    def used(self, count: int, path: Path) -> list[tuple[slice, slice]]:
        """Which stored channels a network of ``count`` channels uses, and which of its channels they are.

        The shared ones come first, then those of its group: one run of each.
        """
        group = self.group(path)
        if count <= self.shared or group == 0:
            return [(slice(0, count), slice(0, count))]
        start = self.shared + group * self.own
        own = slice(start, start + count - self.shared)
        return [(slice(0, self.shared), slice(0, self.shared)), (own, slice(self.shared, count))]

    def in_first_group(self) -> Tensor:
        """For each stored channel its like in the first group, which is also its place in the widest network."""
        own = torch.arange(self.shared, self.width)
        return torch.cat([torch.arange(self.shared), own.repeat(self.groups)])


class _Blocks(torch.autograd.Function):
    """Blocks of a stored weight put together to another: a copy of each forward, one of its gradient backward.

    Slices that are concatenated do the same, but for each of them autograd fills a gradient of the stored size with
    zeros, which is felt where a step has many sub-nets.
    """

    @staticmethod
    def forward(ctx: Any, stored: Tensor, channels: tuple[int, int], blocks: list[Any]) -> Tensor:
        ctx.blocks, ctx.shape = blocks, stored.shape
        weight = stored.new_empty(*channels, *stored.shape[2:])
        for source, place in blocks:
            weight[place] = stored[source]
        return weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        stored = gradient.new_zeros(ctx.shape)
        for source, place in ctx.blocks:
            stored[source] = gradient[place]
        return stored, None, None


class GroupedConv2d(nn.Conv2d):
    """A convolution without bias whose channels are shared or a group's, on both sides.

    Args:
        incoming: the input's channels.
        outgoing: the output's.
        kernel_size, stride, options: see :class:`torch.nn.Conv2d`.
    """

    def __init__(
        self, incoming: GroupedChannels, outgoing: GroupedChannels, kernel_size: int, stride: int = 1, **options: Any
    ) -> None:
        super().__init__(incoming.stored, outgoing.stored, kernel_size, stride, **options)
        self.incoming = incoming
        self.outgoing = outgoing

    def forward(self, x: Tensor, out_channels: int, path: Path) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` (N, C, H, W), C at most the widest network's, into so many channels of a sub-net."""
        weight = self.weight_of(path, x.shape[1], out_channels)
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def weight_of(self, path: Path, in_channels: int, out_channels: int) -> Tensor:
        """The weight of a sub-net at these numbers of channels."""
        rows, columns = self.outgoing.used(out_channels, path), self.incoming.used(in_channels, path)
        blocks = [((row, column), (to_row, to_column)) for row, to_row in rows for column, to_column in columns]
        return _Blocks.apply(self.weight, (out_channels, in_channels), blocks)

    def state_of(self, path: Path) -> dict[str, Tensor]:
        """The state of the :class:`SlicedConv2d` of one sub-net."""
        return {"weight": self.weight_of(path, self.incoming.width, self.outgoing.width)}

    def spread(self, weight: Tensor) -> Tensor:
        """A plain convolution's weight, for every group."""
        return weight[self.outgoing.in_first_group()][:, self.incoming.in_first_group()]

    def opened(self, weight: Tensor, level: int) -> Tensor:
        """A weight like this layer's, the groups of one level copies of the first."""
        for dim, channels in enumerate((self.outgoing, self.incoming)):
            if channels.groups > 1 and channels.level == level:
                weight = weight.index_select(dim, channels.in_first_group().to(weight.device))
        return weight

    def values(self) -> Iterator[Tensor]:
        """What :meth:`opened` applies to."""
        yield self.weight


class GroupedBatchNorm2d(nn.Module):
    """A batch norm for each group: statistics, scales and shifts of all channels, the shared ones too.

    Args:
        channels: the channels.
    """

    def __init__(self, channels: GroupedChannels) -> None:
        super().__init__()
        self.channels = channels
        self.norm = SlicedBatchNorm2d(channels.groups * channels.width)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Normalise ``x`` (N, C, H, W), C at most the widest network's, as a sub-net does."""
        return self.norm(x, self.start(path))

    def start(self, path: Path) -> int:
        """The place of a sub-net's first channel among those of all groups."""
        return self.channels.group(path) * self.channels.width

    def state_of(self, path: Path) -> dict[str, Tensor]:
        """The state of the :class:`SlicedBatchNorm2d` of one sub-net."""
        start = self.start(path)
        return {
            name: value[start : start + self.channels.width] if value.dim() else value
            for name, value in self.norm.state_dict().items()
        }

    def spread(self, value: Tensor) -> Tensor:
        """A plain batch norm's values, for every group."""
        return value.repeat(self.channels.groups)

    def opened(self, value: Tensor, level: int) -> Tensor:
        """Values like this layer's, the groups of one level copies of the first."""
        channels = self.channels
        if channels.groups == 1 or channels.level != level:
            return value
        return value[: channels.width].repeat(channels.groups)

    def values(self) -> Iterator[Tensor]:
        """What :meth:`opened` applies to."""
        yield from (value for value in self.norm.state_dict(keep_vars=True).values() if value.dim())
