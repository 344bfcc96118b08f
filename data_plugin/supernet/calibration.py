"""Batch-norm statistics of one network on given images, which sharing weights left wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def calibrate(networks: Sequence[nn.Module], batches: Iterable[Tensor]) -> None:
    """Replace running batch-norm statistics by their average over the given images (Yu and Huang, 2019, section 3).

    All networks of a supernet write to the same running statistics, so these fit none of them.

    Args:
        networks: networks whose batch norms are calibrated in place; their modes stay as they are.
        batches: normalised images (N, 3, H, W); every batch counts the same.
    """
    norms = [m for network in networks for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.training, norm.momentum = True, None
    with torch.no_grad():
        for images in batches:
            for network in networks:
                network(images.to(next(network.parameters()).device))
    for norm, training, momentum in before:
        norm.training, norm.momentum = training, momentum
