"""The supernet with groups: sub-nets that share most of their weights, each a supernet of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.grouped import GroupedBatchNorm2d, GroupedChannels, GroupedConv2d, Path
from data_plugin.backbones.sliced_resnet import SlicedBottleneck, SlicedResNet
from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError


class RoutedBottleneck(SlicedBottleneck[GroupedChannels]):
    """A bottleneck that runs at any width up to its own, with the channels of one sub-net.

    Args:
        incoming: channels of the input.
        width: channels of the 3x3 convolution.
        stride: stride of the 3x3 convolution.
        shortcut: whether a 1x1 convolution carries the input to the block's output shape.
    """

    def __init__(self, incoming: GroupedChannels, width: GroupedChannels, stride: int, shortcut: bool) -> None:
        layers = GroupedConv2d, GroupedBatchNorm2d
        super().__init__(incoming, width, width.times(EXPANSION), stride, 1, shortcut, *layers)


class RoutedResNet(SlicedResNet[RoutedBottleneck]):
    """``groups ** levels`` sub-nets, each a weight-sharing supernet as :class:`DynamicResNet` (after SDR, our design).

    In each of the last ``levels`` stages the first channels are shared by all sub-nets, 7 of 8 of the widest network's;
    the others come in groups, of which a sub-net uses one. Batch norms are one a group. A path names a sub-net: its
    first entry is the group in the last stage, the next that in the stage before. Path and architecture are arguments
    of every call and never state. A narrow network may have shared channels alone: then all sub-nets of one group
    differ in it by their batch norms.

    A new one has the random weights of a new :class:`DynamicResNet` in every sub-net.

    Args:
        space: the search space of every sub-net.
        groups: groups in a stage.
        levels: stages with groups, 0 to 4.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.

    Raises:
        UserError: if ``groups`` or ``levels`` are out of range.

    Example:
        >>> supernet = RoutedResNet(SearchSpace.micro())
        >>> c2, c3, c4, c5 = supernet(torch.rand(1, 3, 64, 64), SearchSpace.micro().smallest, (2, 0, 1, 3))
    """

    def __init__(self, space: SearchSpace, groups: int = 4, levels: int = STAGES, with_cp: bool = False) -> None:
        if groups < 1:
            raise UserError(f"a supernet with {groups} groups was asked for; expected at least 1")
        if not 0 <= levels <= STAGES:
            raise UserError(f"{levels} levels were asked for; expected 0 to {STAGES}, one a stage at the most")
        plain = DynamicResNet(space)
        super().__init__(space, with_cp)
        self.groups = groups
        self.levels = levels
        incoming = GroupedChannels(space.largest.stem, 0)
        for index in range(STAGES):
            level = STAGES - 1 - index
            width = GroupedChannels.of(space.largest.width[index], groups if level < levels else 1, level)
            blocks = []
            for block in range(space.largest.depth[index]):
                stride = STRIDES[index] if block == 0 else 1
                blocks.append(RoutedBottleneck(incoming, width, stride, shortcut=block == 0))
                incoming = width.times(EXPANSION)
            self.add_module(f"layer{index + 1}", nn.ModuleList(blocks))
        self.copy_from(plain)

    @property
    def paths(self) -> int:
        """How many sub-nets there are."""
        return self.groups**self.levels

    def stage(self, index: int, x: Tensor, width: int, depth: int, path: Path, start: int = 0) -> Tensor:
        """Run blocks ``start`` to ``depth`` of one stage as a sub-net does; see :meth:`DynamicResNet.stage`."""
        return self._stage(index, x, width, depth, start, path)

    def forward(self, x: Tensor, arch: Arch, path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run one network of one sub-net.

        Args:
            x: images (N, 3, H, W).
            arch: the network, anything inside the space's largest.
            path: the sub-net, a group for each level.

        Returns:
            The feature maps C2 to C5, (N, 4 * width, H / s, W / s) with s = 4, 8, 16, 32.

        Raises:
            UserError: if there is no such sub-net, or ``arch`` does not fit inside the largest network.
        """
        self.require_path(path)
        return self._maps(x, arch, path)

    def require_path(self, path: Path) -> None:
        """Check that a path leads to a sub-net.

        Raises:
            UserError: if it has another number of entries, or one is no group.
        """
        if len(path) != self.levels or not all(0 <= group < self.groups for group in path):
            written = ",".join(map(str, path))
            raise UserError(
                f"there is no sub-net {written or '(an empty path)'}; expected {self.levels} numbers from 0 to "
                f"{self.groups - 1}, such as {','.join(['0'] * self.levels)}"
            )

    def along(self, path: Path) -> DynamicResNet:
        """One sub-net as a plain supernet, with a copy of its weights, in this one's mode and on its device.

        Raises:
            UserError: if there is no such sub-net.
        """
        self.require_path(path)
        with torch.device("meta"):
            plain = DynamicResNet(self.space, with_cp=self.with_cp)
        state = {f"{part}.{name}": value for part, layer in self._stem() for name, value in layer.state_dict().items()}
        for part, layer in self._grouped():
            state |= {f"{part}.{name}": value for name, value in layer.state_of(path).items()}
        plain.load_state_dict({name: value.detach().clone() for name, value in state.items()}, assign=True)
        return plain.train(self.training)

    @torch.no_grad()
    def copy_from(self, plain: DynamicResNet) -> None:
        """Give every sub-net the weights of a plain supernet of the same space."""
        for part, layer in self._stem():
            layer.load_state_dict(plain.get_submodule(part).state_dict())
        for part, layer in self._grouped():
            state = plain.get_submodule(part).state_dict(keep_vars=True)
            values = (value for value in state.values() if value.dim())
            for own, value in zip(layer.values(), values, strict=True):
                own.copy_(layer.spread(value))

    @torch.no_grad()
    def open_groups(self, level: int, states: Mapping[Tensor, Mapping[str, Any]] | None = None) -> None:
        """Make all groups of one level copies of the first: from here on each can go its own way.

        What a sub-net computes becomes what the one with 0 at this level computes, to the bit.

        Args:
            level: 0 opens the last stage, 1 the one before.
            states: an optimiser's state of parameters; what there is of the size of a weight, such as its momentum,
                is copied with it.
        """
        for _, layer in self._grouped():
            for value in layer.values():
                beside = (states or {}).get(value, {}).values()
                for each in (value, *(other for other in beside if getattr(other, "shape", None) == value.shape)):
                    each.copy_(layer.opened(each, level))

    def _stem(self) -> list[tuple[str, nn.Module]]:
        return [("conv1", self.conv1), ("bn1", self.bn1)]

    def _grouped(self) -> Iterator[tuple[str, GroupedConv2d | GroupedBatchNorm2d]]:
        for name, module in self.named_modules():
            if isinstance(module, (GroupedConv2d, GroupedBatchNorm2d)):
                yield name, module
