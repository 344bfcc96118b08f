"""A network as it is before any training."""

from __future__ import annotations

import torch

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import Arch


def random_start(arch: Arch, seed: int) -> DATAResNet:
    """A network of random weights, the same for the same seed, without a mark on the caller's generator.

    Args:
        arch: the network.
        seed: of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DATAResNet(arch)
