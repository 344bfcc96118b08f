"""Layers that hold weights for the widest network and use the first channels of them: the sharing of a supernet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

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
    """A batch norm that uses, and in training updates, some channels of its parameters and statistics."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Normalise ``x`` (N, C, H, W), C at most ``num_features``, with the C channels from ``start`` on."""
        used = slice(start, start + x.shape[1])
        weight, bias = (value[used] if self.affine else None for value in (self.weight, self.bias))
        if self.training and not self.track_running_stats:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        mean, var = self.get_buffer("running_mean")[used], self.get_buffer("running_var")[used]
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum or 0.0, self.eps)


class SlicedLinear(nn.Linear):
    """A linear layer that takes any number of first input features: the entry of a head on top of a supernet."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, C), C at most ``in_features``, to (N, ``out_features``)."""
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


M = TypeVar("M", bound=nn.Module)


@contextmanager
def batch_statistics(module: M) -> Iterator[M]:
    """For the time of a ``with``, let every batch norm below ``module`` normalise with the statistics of its batch.

    Running statistics are neither used nor changed. Yields ``module``.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield module
    finally:
        for norm, training, tracking in before:
            norm.training, norm.track_running_stats = training, tracking


def leading_slice(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The first entries of ``tensor`` along every axis, ``shape`` in all: what a narrower layer shares with it."""
    return tensor[tuple(slice(0, size) for size in shape)]
