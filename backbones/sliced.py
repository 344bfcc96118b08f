"""Layers that hold weights for the widest network and use the first channels of them: the sharing of a supernet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SlicedConv2d(nn.Conv2d):
    """A convolution without bias whose first input and output channels make every narrower one.

    Takes the constructor arguments of :class:`torch.nn.Conv2d`, for the widest network.
    """

    def forward(self, x: Tensor, out_channels: int) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` (N, C, H, W), C at most ``in_channels``, into the first ``out_channels`` channels."""
        # Contiguous, so that the kernels and their rounding are those of a plain convolution of this size.
        weight = self.weight[:out_channels, : x.shape[1]].contiguous()
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)


class SlicedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that uses, and in training updates, the first channels of its parameters and statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, C, H, W), C at most ``num_features``."""
        channels = x.shape[1]
        assert self.running_mean is not None and self.running_var is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            self.running_mean[:channels],
            self.running_var[:channels],
            self.weight[:channels],
            self.bias[:channels],
            self.training,
            self.momentum if self.momentum is not None else 0.1,
            self.eps,
        )


class SlicedLinear(nn.Linear):
    """A linear layer that takes any number of first input features: the entry of a head on top of a supernet."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, C), C at most ``in_features``, to (N, ``out_features``)."""
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


def use_batch_statistics(module: nn.Module) -> None:
    """Let every batch norm below ``module`` normalise with its batch's statistics and leave its running ones alone."""
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.momentum = 0.0


def leading_slice(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The first entries of ``tensor`` along every axis, ``shape`` in all: what a narrower layer shares with it."""
    return tensor[tuple(slice(0, size) for size in shape)]
