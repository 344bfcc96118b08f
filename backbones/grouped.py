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

    def take(self, stored: Tensor, dim: int, count: int, path: Path) -> Tensor:
        """What a network of ``count`` channels uses along a dimension: the shared ones first, then its group's."""
        start = self.shared + self.group(path) * self.own
        if count <= self.shared or start == self.shared:
            return stored.narrow(dim, 0, count)
        return torch.cat([stored.narrow(dim, 0, self.shared), stored.narrow(dim, start, count - self.shared)], dim)

    def in_first_group(self) -> Tensor:
        """For each stored channel its like in the first group, which is also its place in the widest network."""
        own = torch.arange(self.shared, self.width)
        return torch.cat([torch.arange(self.shared), own.repeat(self.groups)])


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
        # Contiguous, so that the kernels and their rounding are those of a plain convolution of this size.
        rows = self.outgoing.take(self.weight, 0, out_channels, path)
        return self.incoming.take(rows, 1, in_channels, path).contiguous()

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
        return self.norm(x, self.channels.group(path) * self.channels.width)

    def state_of(self, path: Path) -> dict[str, Tensor]:
        """The state of the :class:`SlicedBatchNorm2d` of one sub-net."""
        start = self.channels.group(path) * self.channels.width
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
