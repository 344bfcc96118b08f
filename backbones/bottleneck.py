"""The residual block of all networks here, and a stage of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_plugin.space.arch import EXPANSION

Norm = Callable[[int], nn.Module]
"""Makes the norm layer for a number of channels."""


class Bottleneck(nn.Module):
    """A 1x1, 3x3, 1x1 residual block with the stride in the 3x3 (He et al., 2016, as in torchvision).

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolution; the block puts out four times as many.
        stride: stride of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
        shortcut: whether a 1x1 convolution carries the input to the block's output shape.
        norm: makes a norm layer for a number of channels.
        with_cp: recompute the block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        shortcut: bool = False,
        norm: Norm = nn.BatchNorm2d,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.with_cp = with_cp
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))
            if shortcut
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * width, H / stride, W / stride)."""
        # TorchScript does not know checkpoint; of this condition it leaves out what it knows to be of no use.
        if torch.jit.is_scripting() or not recomputes(self.with_cp, x):
            out = self._residual(x)
        else:
            out = checkpoint(self._residual, x, use_reentrant=False)
        return self.relu(out)

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + (x if self.downsample is None else self.downsample(x))


def recomputes(with_cp: bool, x: Tensor) -> bool:
    """Whether a block with this option and input is computed again in the backward pass, which traces do not have."""
    return with_cp and torch.is_grad_enabled() and x.requires_grad and not torch.jit.is_tracing()


def make_stage(
    in_channels: int,
    width: int,
    depth: int,
    stride: int = 1,
    dilation: int = 1,
    norm: Norm = nn.BatchNorm2d,
    with_cp: bool = False,
    contract_dilation: bool = False,
) -> nn.Sequential:
    """A stage of ``depth`` bottlenecks, the first with the stride and the shortcut convolution.

    Args:
        in_channels: channels of the stage's input.
        width: channels of the 3x3 convolutions; the stage puts out four times as many.
        depth: number of bottlenecks.
        stride: stride of the first bottleneck.
        dilation: dilation of every 3x3 convolution.
        norm: makes a norm layer for a number of channels.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        contract_dilation: halve the dilation of the first bottleneck, see :func:`block_dilation`.
    """
    start = block_dilation(0, dilation, contract_dilation)
    first = Bottleneck(in_channels, width, stride, start, shortcut=True, norm=norm, with_cp=with_cp)
    later = (
        Bottleneck(EXPANSION * width, width, dilation=dilation, norm=norm, with_cp=with_cp) for _ in range(depth - 1)
    )
    return nn.Sequential(first, *later)


def block_dilation(block: int, dilation: int, contract_dilation: bool) -> int:
    """Dilation of one bottleneck of a stage with that dilation.

    With ``contract_dilation`` the first one has half of it, as that option of MMSegmentation's ResNet: where dilations
    double from stage to stage, it keeps that of the stage before.
    """
    return max(1, dilation // 2) if contract_dilation and block == 0 else dilation


def initialise(model: nn.Module) -> None:
    """Draw convolutions from He's normal distribution (fan out) and set norms to the identity.

    What is on the meta device gets its weights from elsewhere; to draw there would only import PyTorch's compiler.
    """
    if next(model.parameters()).is_meta:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
