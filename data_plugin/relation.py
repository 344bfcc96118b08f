"""How far a student's feature map is from the teacher's: the relative relations of DATA, Eq. 4 and 5."""

from __future__ import annotations

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
    """

    def __init__(self, features: Tensor, temperature: float = TEMPERATURE) -> None:
        self.temperature = temperature
        self.columns = _columns(features)

    def distance(self, features: Tensor) -> Tensor:
        """Distance of each student map (N, C, H, W) to the teacher's, shape (N,), float64."""
        teacher, student = self.columns, _columns(features)
        images, positions, _ = student.shape
        total = torch.zeros(images, dtype=torch.float64, device=student.device)
        rows = max(1, BLOCK // (images * positions))
        for start in range(0, positions, rows):
            block = slice(start, start + rows)
            target = (teacher[:, block] @ teacher.mT / self.temperature).softmax(dim=-1)
            logits = student[:, block] @ student.mT / self.temperature
            cross_entropy = logits.logsumexp(dim=-1) - (target * logits).sum(dim=-1)
            total += cross_entropy.sum(dim=-1, dtype=torch.float64)
        return total


def _columns(features: Tensor) -> Tensor:
    """L2-normalised columns of each map, (N, C, H, W) to (N, HW, C)."""
    return F.normalize(features.float().flatten(2), dim=1).mT.contiguous()
