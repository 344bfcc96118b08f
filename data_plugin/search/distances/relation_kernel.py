"""The distance of two relations as one Triton kernel: no part of either relation ever reaches a GPU's memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add(
    total: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    others: tl.tensor,
    of_rows: tl.tensor,
    of_others: tl.tensor,
    channels: tl.tensor,
    precision: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """Add the products of some rows' and some other columns to a tile, a chunk of channels at a time."""
    for start in range(0, channels, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        within = channel < channels
        left = tl.load(columns + rows[:, None] * channels + channel, mask=of_rows[:, None] & within, other=0.0)
        right = tl.load(columns + others[:, None] * channels + channel, mask=of_others[:, None] & within, other=0.0)
        total = tl.dot(left, right.T, total, input_precision=precision)
    return total


@triton.jit
def _cross_entropies(
    teacher: tl.tensor,
    student: tl.tensor,
    drawn: tl.tensor,
    found: tl.tensor,
    count: tl.tensor,
    positions: tl.tensor,
    teacher_channels: tl.tensor,
    student_channels: tl.tensor,
    highest: tl.tensor,
    precision: tl.constexpr,
    ROWS: tl.constexpr,
    OTHERS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    image = tl.program_id(1).to(tl.int64)
    teacher += image * positions * teacher_channels
    student += image * positions * student_channels
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    of_rows = row < count
    rows = tl.load(drawn + image * count + row, mask=of_rows, other=0)
    sums = tl.zeros([ROWS], tl.float32)
    teacher_sums = tl.zeros([ROWS], tl.float32)
    expected = tl.zeros([ROWS], tl.float32)
    for start in range(0, positions, OTHERS):
        others = (start + tl.arange(0, OTHERS)).to(tl.int64)
        of_others = others < positions
        # Less the largest possible logit: exp() cannot overflow, and the cross-entropy does not change.
        none = tl.zeros([ROWS, OTHERS], tl.float32) - highest
        logits = _add(none, student, rows, others, of_rows, of_others, student_channels, precision, CHUNK)
        teacher_logits = _add(none, teacher, rows, others, of_rows, of_others, teacher_channels, precision, CHUNK)
        weights = tl.where(of_others, tl.exp(teacher_logits), 0.0)
        sums += tl.sum(tl.where(of_others, tl.exp(logits), 0.0), 1)
        teacher_sums += tl.sum(weights, 1)
        expected += tl.sum(weights * logits, 1)
    tl.store(found + image * count + row, tl.log(sums) - expected / teacher_sums, mask=of_rows)


def cross_entropies(teacher: Tensor, student: Tensor, rows: Tensor | None, highest: float) -> Tensor:
    """Cross-entropy of each row of a student's relation with the teacher's (DATA, Eq. 4 and 5).

    Args:
        teacher: columns (N, HW, C'), whose products are logits, on a CUDA device.
        student: columns (N, HW, C) likewise.
        rows: positions (N, n) whose rows are wanted; None stands for all.
        highest: a bound on all logits.

    Returns:
        Cross-entropies (N, n), float32. Products are in tensor cores' TF32 if PyTorch is told to allow it for matrix
        products, else in three TF32 parts, about float32.
    """
    images, positions, _ = student.shape
    if rows is None:
        rows = torch.arange(positions, device=student.device).expand(images, -1)
    found = torch.empty(rows.shape, device=student.device)
    count = rows.shape[1]
    height = 64
    _cross_entropies[(triton.cdiv(count, height), images)](
        teacher.contiguous(),
        student.contiguous(),
        rows.contiguous(),
        found,
        count,
        positions,
        teacher.shape[2],
        student.shape[2],
        highest,
        precision="tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        ROWS=height,
        OTHERS=64,
        CHUNK=32,
    )
    return found
