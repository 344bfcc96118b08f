"""What a network costs: multiply-accumulates and parameters of the backbone, for one or for all networks of a space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from data_plugin.space.arch import EXPANSION, STAGES, Arch
from data_plugin.utils.errors import UserError

STRIDES = (1, 2, 2, 2)
"""Strides of the four stages, in the 3x3 convolution of their first bottleneck (PyTorch style)."""


@overload
def flops(arch: Arch, input_size: int | tuple[int, int] = 224, strides: Sequence[int] = STRIDES) -> int: ...
@overload
def flops(
    arch: np.ndarray, input_size: int | tuple[int, int] = 224, strides: Sequence[int] = STRIDES
) -> np.ndarray: ...
def flops(
    arch: Arch | np.ndarray, input_size: int | tuple[int, int] = 224, strides: Sequence[int] = STRIDES
) -> int | np.ndarray:
    """Multiply-accumulates of the convolutions for one image, as the papers count FLOPs (DATA, section 4.1).

    Args:
        arch: one network, or a table of networks of shape (N, 9) as :attr:`SearchSpace.table` has it.
        input_size: height and width of the image in pixels, or one number for both.
        strides: strides of the four stages.

    Returns:
        The count, or an int64 array of shape (N,).

    Raises:
        UserError: if the input is smaller than one pixel.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if height < 1 or width < 1:
        raise UserError(f"the input size is {height}x{width}; expected at least one pixel")
    stem, widths, depths = _columns(arch)

    def area() -> int:
        return height * width

    height, width = _halved(height, 2), _halved(width, 2)
    total = area() * 3 * 7 * 7 * stem
    height, width = _halved(height, 2), _halved(width, 2)
    incoming = stem
    for stage in range(STAGES):
        middle, blocks, outgoing = widths[stage], depths[stage], EXPANSION * widths[stage]
        total = total + area() * incoming * middle
        height, width = _halved(height, strides[stage]), _halved(width, strides[stage])
        total = total + area() * (9 * middle * middle + middle * outgoing + incoming * outgoing)
        total = total + area() * (blocks - 1) * (outgoing * middle + 9 * middle * middle + middle * outgoing)
        incoming = outgoing
    return _answer(arch, total)


@overload
def params(arch: Arch) -> int: ...
@overload
def params(arch: np.ndarray) -> np.ndarray: ...
def params(arch: Arch | np.ndarray) -> int | np.ndarray:
    """Learnable numbers of the backbone: convolution weights and batch-norm scales and shifts.

    Args:
        arch: one network, or a table of networks of shape (N, 9) as :attr:`SearchSpace.table` has it.

    Returns:
        The count, or an int64 array of shape (N,).
    """
    stem, widths, depths = _columns(arch)
    total = 3 * 7 * 7 * stem + 2 * stem
    incoming = stem
    for middle, blocks in zip(widths, depths, strict=True):
        outgoing = EXPANSION * middle
        first = incoming * middle + 9 * middle * middle + middle * outgoing + incoming * outgoing
        later = outgoing * middle + 9 * middle * middle + middle * outgoing
        norms = blocks * 2 * (middle + middle + outgoing) + 2 * outgoing
        total = total + first + (blocks - 1) * later + norms
        incoming = outgoing
    return _answer(arch, total)


def _columns(arch: Arch | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row = arch.row if isinstance(arch, Arch) else arch
    columns = np.asarray(row, dtype=np.int64).T
    return columns[0], columns[1 : 1 + STAGES], columns[1 + STAGES :]


def _halved(size: int, stride: int) -> int:
    """Size after a convolution or pooling with 'same' padding: the 7x7, the 3x3 and the pooling all agree."""
    return (size - 1) // stride + 1


def _answer(arch: Arch | np.ndarray, total: np.ndarray) -> int | np.ndarray:
    return int(total) if isinstance(arch, Arch) else total
