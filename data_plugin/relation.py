"""How far a student's feature map is from the teacher's: the relative relations of DATA, Eq. 4 and 5."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.2
"""Temperature of the relation softmax; columns are L2-normalised, as in the contrastive loss of MoCo v2."""

BLOCK = 2**22
"""Similarities that are held at once: rows of the relation are streamed in blocks of about this many entries."""


class TeacherRelation:
    """The teacher's side of the distance, prepared once for all students.

    For every position i of a feature map, r_ij is the softmax over all positions j of m_i . m_j / temperature
    (columns m L2-normalised), and a student with relations r is R = sum_i sum_j -r'_ij log r_ij away from a
    teacher with relations r' (DATA, Eq. 4 and 5; lower is closer). Channel numbers may differ. Whole rows are
    computed in blocks, so memory grows with HW and never with its square.

    Args:
        features: the teacher's feature maps (N, C', H, W).
        temperature: above 0.
        rows: positions i (N, n), n at least 2, distinct within each map, whose share of R stands for all; None sums
            all. Drawn uniformly, as :func:`draw_rows` does, they leave R unbiased.
    """

    def __init__(self, features: Tensor, temperature: float = TEMPERATURE, rows: Tensor | None = None) -> None:
        self.temperature = temperature
        self.rows = rows
        self.columns = _columns(features)
        images, positions, _ = self.columns.shape
        count = positions if rows is None else rows.shape[1]
        height = max(1, BLOCK // (images * positions))
        self.blocks = [slice(start, start + height) for start in range(0, count, height)]
        if features.is_meta:  # Only memory is of interest there, and all blocks take the same.
            self.blocks = self.blocks[:2]
        # Where one block is all, every student needs the same one; where there are many, they would fill the memory.
        self.targets = list(self._targets()) if len(self.blocks) == 1 else None

    def distance(self, features: Tensor) -> Tensor:
        """Distance of each student map (N, C, H, W) to the teacher's, shape (N,), float64."""
        return self.estimate(features)[0]

    def estimate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of each student map (N, C, H, W) to the teacher's, and its variance from drawing rows.

        Returns:
            Distances (N,) and variances (N,), float64; variances are zero where no rows were drawn.
        """
        student = _columns(features)
        selected = self._selected(student)
        images, positions, _ = student.shape
        total, squares = torch.zeros(2, images, dtype=torch.float64, device=student.device)
        for block, target in zip(self.blocks, self.targets or self._targets(), strict=True):
            logits = selected[:, block] @ student.mT
            cross_entropy = (logits.logsumexp(dim=-1) - (target * logits).sum(dim=-1)).double()
            total += cross_entropy.sum(dim=-1)
            squares += cross_entropy.square().sum(dim=-1)
        if self.rows is None:
            return total, torch.zeros_like(total)
        count = self.rows.shape[1]
        spread = (squares - total.square() / count).clamp_min(0) / (count - 1)
        return total * positions / count, spread * positions**2 / count * (1 - count / positions)

    def _targets(self) -> Iterator[Tensor]:
        selected = self._selected(self.columns)
        for block in self.blocks:
            yield (selected[:, block] @ self.columns.mT).softmax(dim=-1)

    def _selected(self, columns: Tensor) -> Tensor:
        """The columns whose rows of the relation are summed up, divided by the temperature."""
        if self.rows is not None:
            columns = columns.gather(1, self.rows[..., None].expand(-1, -1, columns.shape[2]))
        return columns / self.temperature


def draw_rows(images: Sequence[str], positions: int, count: int, seed: int, tap: str) -> Tensor | None:
    """Distinct positions for every image, uniformly drawn, the same whenever image, tap and seed are.

    Args:
        images: what identifies each image.
        positions: number of positions of the map.
        count: positions to draw, at least 2.
        seed: seed of the draw.
        tap: which map.

    Returns:
        Positions (N, count), or None, which stands for all, where there are no more than ``count``.
    """
    if count >= positions:
        return None
    digests = (hashlib.sha256(f"{seed} {tap} {image}".encode()).digest() for image in images)
    draws = (np.random.default_rng(list(digest)).choice(positions, count, replace=False) for digest in digests)
    return torch.from_numpy(np.stack(list(draws)))


def _columns(features: Tensor) -> Tensor:
    """L2-normalised columns of each map, (N, C, H, W) to (N, HW, C)."""
    return F.normalize(features.float().flatten(2).mT.contiguous(), dim=2)
