"""The contrastive loss of MoCo and of what follows it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.pretrain.methods.key_queue import KeyQueue


class Contrast(nn.Module):
    """InfoNCE of queries against their own key and the keys of other images (He et al., 2020, Eq. 1).

    Unlike with lightly's ``NTXentLoss``, negatives may differ from query to query, as those of the same batch do; that
    loss then also compares the queries with each other.

    Args:
        temperature: what similarities are divided by.
        queue: number of keys in the queue.
        dim: length of a key.
    """

    def __init__(self, temperature: float, queue: int, dim: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.memory_bank = KeyQueue(queue, dim)

    def forward(self, queries: Tensor, positives: Tensor, keys: Tensor) -> Tensor:
        """The mean over all queries.

        Args:
            queries: (N, ..., dim), of any length.
            positives: what each query has to find, of the same shape, of any length.
            keys: what the images are remembered by, (N, dim), of length 1.
        """
        logits = self._logits(queries, positives, keys)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    def imitation(self, queries: Tensor, others: Tensor, positives: Tensor, keys: Tensor) -> Tensor:
        """Cross-entropy of the queries' choice among the same keys with that of others, which no gradient flows to.

        Args:
            queries: (N, ..., dim), of any length.
            others: those that are imitated, of the same shape.
            positives: see :meth:`forward`.
            keys: see :meth:`forward`.
        """
        chosen = F.softmax(self._logits(others.detach(), positives, keys), dim=-1)
        return F.cross_entropy(self._logits(queries, positives, keys), chosen)

    def _logits(self, queries: Tensor, positives: Tensor, keys: Tensor) -> Tensor:
        """A row for each query, its own key's logit first."""
        queries, positives = F.normalize(queries, dim=-1), F.normalize(positives, dim=-1)
        own = (queries * positives).sum(dim=-1, keepdim=True)
        logits = torch.cat([own, self.memory_bank.similarities(queries, keys)], dim=-1) / self.temperature
        return logits.flatten(0, -2)

    def remember(self, keys: Tensor) -> None:
        """Enqueue keys (N, dim) of length 1."""
        self.memory_bank.enqueue(keys)
