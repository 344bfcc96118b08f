"""The supernet: one set of weights whose first channels and blocks are every network of a search space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data_plugin.backbones.bottleneck import block_dilation, initialise
from data_plugin.backbones.freezing import freeze_stages
from data_plugin.backbones.sliced import SlicedBatchNorm2d, SlicedConv2d
from data_plugin.backbones.sliced_resnet import SlicedBottleneck, SlicedResNet
from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.space.search_space import SearchSpace


class DynamicBottleneck(SlicedBottleneck[int]):
    """A bottleneck that runs at any width up to its own on the first channels of its layers.

    Args:
        in_channels: most channels that the input may have.
        width: most channels that the 3x3 convolution may have.
        stride: stride of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
        shortcut: whether a 1x1 convolution carries the input to the block's output shape.
    """

    conv2: SlicedConv2d
    bn1: SlicedBatchNorm2d
    bn2: SlicedBatchNorm2d
    bn3: SlicedBatchNorm2d

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, shortcut: bool) -> None:
        layers = SlicedConv2d, SlicedBatchNorm2d
        super().__init__(in_channels, width, EXPANSION * width, stride, dilation, shortcut, *layers)

    def norms(self, width: int) -> list[tuple[SlicedBatchNorm2d, int]]:
        """The batch norms that a call at this width uses, and how many of their channels."""
        norms = [(self.bn1, width), (self.bn2, width), (self.bn3, EXPANSION * width)]
        if self.downsample is not None:
            norms.append((self.downsample[1], EXPANSION * width))  # type: ignore[arg-type]
        return norms


class DynamicResNet(SlicedResNet[DynamicBottleneck]):
    """A weight-sharing ResNet that runs any network inside its space's largest (DATA, section 3.2).

    The architecture is an argument of every call and never state: two calls with different architectures may
    follow each other, or run at once, without preparation. Parameters have torchvision's names and the shapes
    of the largest network; a smaller one is the first channels of every layer and the first blocks of every stage.

    Args:
        space: the search space; only its largest network decides what runs, on the space's grid or off it.
        strides: strides of the four stages.
        dilations: dilations of the 3x3 convolutions of the four stages.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        contract_dilation: halve the dilation of every stage's first bottleneck.

    Example:
        >>> supernet = DynamicResNet(SearchSpace.micro())
        >>> c2, c3, c4, c5 = supernet(torch.rand(1, 3, 64, 64), SearchSpace.micro().smallest)
    """

    def __init__(
        self,
        space: SearchSpace,
        strides: Sequence[int] = STRIDES,
        dilations: Sequence[int] = (1, 1, 1, 1),
        frozen_stages: int = -1,
        with_cp: bool = False,
        contract_dilation: bool = False,
    ) -> None:
        super().__init__(space, with_cp)
        self.frozen_stages = frozen_stages
        largest = space.largest
        incoming = largest.stem
        for index in range(STAGES):
            width, blocks = largest.width[index], []
            for block in range(largest.depth[index]):
                stride = strides[index] if block == 0 else 1
                dilation = block_dilation(block, dilations[index], contract_dilation)
                blocks.append(DynamicBottleneck(incoming, width, stride, dilation, shortcut=block == 0))
                incoming = EXPANSION * width
            self.add_module(f"layer{index + 1}", nn.ModuleList(blocks))
        initialise(self)
        freeze_stages(self, frozen_stages)

    def with_options(self, **options: Any) -> DynamicResNet:
        """A supernet of the same weights, which it shares, with other options of the constructor.

        Weights do not depend on strides and dilations, so one that was pre-trained at output stride 32 can compute what
        a segmenter reads at output stride 8.
        """
        with torch.device("meta"):
            network = DynamicResNet(self.space, **options)
        network.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        return network.train(self.training)

    def map_size(self, image: Sequence[int], stage: int) -> tuple[int, int]:
        """Height and width of the feature map that a stage, 0 to 3, puts out for images of a height and width.

        The same for all networks, and known without computing one.
        """
        entries = (self.blocks(index)[0] for index in range(stage + 1))
        stem = (2, 2)  # its convolution and its pooling
        height, width = image
        for stride in (*stem, *(entry.conv2.stride[0] for entry in entries)):
            height, width = -(-height // stride), -(-width // stride)
        return height, width

    def stage(self, index: int, x: Tensor, width: int, depth: int, start: int = 0) -> Tensor:
        """Run blocks ``start`` to ``depth`` of one stage.

        A stage of depth 4 passes through the output of depth 2, so ``stage(i, stage(i, x, w, 2), w, 4, start=2)``
        equals ``stage(i, x, w, 4)``.

        Args:
            index: which stage, 0 to 3.
            x: the stage's input where ``start`` is 0, else its output at depth ``start``.
            width: channels of the 3x3 convolutions.
            depth: number of blocks of the stage.
            start: blocks that ``x`` has already passed.

        Returns:
            The stage's features (N, 4 * width, H / stride, W / stride).
        """
        return self._stage(index, x, width, depth, start)

    def stem_norms(self, width: int) -> list[tuple[SlicedBatchNorm2d, int]]:
        """The batch norm that the stem uses at this width, and how many of its channels."""
        return [(self.bn1, width)]

    def forward(self, x: Tensor, arch: Arch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run one network.

        Args:
            x: images (N, 3, H, W).
            arch: the network, anything inside the space's largest.

        Returns:
            The feature maps C2 to C5, (N, 4 * width, H / s, W / s) with s = 4, 8, 16, 32 at the default strides.

        Raises:
            UserError: if ``arch`` does not fit inside the largest network.
        """
        return self._maps(x, arch)

    def train(self, mode: bool = True) -> DynamicResNet:
        """Set training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        freeze_stages(self, self.frozen_stages)
        return self
