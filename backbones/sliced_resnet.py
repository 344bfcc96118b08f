"""What the supernets have in common: a stem and four stages of bottlenecks, told in each call which channels to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data_plugin.backbones.bottleneck import recomputes
from data_plugin.backbones.sliced import SlicedBatchNorm2d, SlicedConv2d
from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

Channels = TypeVar("Channels")
"""What a layer is made with to know its channels: their number, or how they are stored."""


class SlicedBottleneck(nn.Module, Generic[Channels]):
    """A bottleneck that runs at any width up to its own.

    Args:
        in_channels: most channels that the input may have.
        width: most channels that the 3x3 convolution may have.
        out_channels: four times as many.
        stride: stride of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
        shortcut: whether a 1x1 convolution carries the input to the block's output shape.
        convolution: makes a convolution of the channels that come in, those that go out, and what
            :class:`torch.nn.Conv2d` is given beside them.
        norm: makes a batch norm of channels.
    """

    def __init__(
        self,
        in_channels: Channels,
        width: Channels,
        out_channels: Channels,
        stride: int,
        dilation: int,
        shortcut: bool,
        convolution: Callable[..., nn.Module],
        norm: Callable[[Channels], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = convolution(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(width)
        self.conv3 = convolution(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = (
            nn.ModuleList([convolution(in_channels, out_channels, 1, stride, bias=False), norm(out_channels)])
            if shortcut
            else None
        )

    def forward(self, x: Tensor, width: int, *route: tuple[int, ...]) -> Tensor:
        """Map (N, C, H, W) to (N, 4 * width, H / stride, W / stride); ``route`` is what all layers are told beside."""
        out = F.relu(self.bn1(self.conv1(x, width, *route), *route), inplace=True)
        out = F.relu(self.bn2(self.conv2(out, width, *route), *route), inplace=True)
        out = self.bn3(self.conv3(out, EXPANSION * width, *route), *route)
        if self.downsample is not None:
            convolution, norm = self.downsample
            x = norm(convolution(x, EXPANSION * width, *route), *route)
        return F.relu(out + x, inplace=True)


Block = TypeVar("Block", bound=SlicedBottleneck)


class SlicedResNet(nn.Module, Generic[Block]):
    """A stem and four stages of :class:`SlicedBottleneck`, whose subclass adds ``layer1`` to ``layer4``.

    Args:
        space: the search space; its largest network decides what runs.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(self, space: SearchSpace, with_cp: bool) -> None:
        super().__init__()
        self.space = space
        self.with_cp = with_cp
        self.conv1 = SlicedConv2d(3, space.largest.stem, 7, 2, padding=3, bias=False)
        self.bn1 = SlicedBatchNorm2d(space.largest.stem)

    def stem(self, x: Tensor, width: int) -> Tensor:
        """Map images (N, 3, H, W) to the stem's features (N, width, H / 4, W / 4)."""
        x = F.relu(self.bn1(self.conv1(x, width)), inplace=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def blocks(self, index: int) -> list[Block]:
        """All blocks of one stage, 0 to 3."""
        return list(self.get_submodule(f"layer{index + 1}").children())  # type: ignore[arg-type]

    def _stage(self, index: int, x: Tensor, width: int, depth: int, start: int, *route: tuple[int, ...]) -> Tensor:
        """Blocks ``start`` to ``depth`` of one stage."""
        for block in self.blocks(index)[start:depth]:
            if recomputes(self.with_cp, x):
                x = checkpoint(block, x, width, *route, use_reentrant=False)
            else:
                x = block(x, width, *route)
        return x

    def _maps(self, x: Tensor, arch: Arch, *route: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The feature maps C2 to C5 of one network."""
        self.require_inside(arch)
        x = self.stem(x, arch.stem)
        features = []
        for index in range(STAGES):
            x = self._stage(index, x, arch.width[index], arch.depth[index], 0, *route)
            features.append(x)
        return features[0], features[1], features[2], features[3]

    def require_inside(self, arch: Arch) -> None:
        """Check that a network is part of this supernet.

        Raises:
            UserError: if it does not fit inside the largest network.
        """
        if not arch.fits_inside(self.space.largest):
            raise UserError(f"{arch} does not fit inside this supernet, whose largest network is {self.space.largest}")
