"""Freezing the stem and the first stages of a ResNet, as detection frameworks do while they fine-tune."""

from __future__ import annotations

from torch import nn


def freeze_stages(model: nn.Module, frozen_stages: int) -> None:
    """Stop gradients and statistics of the first stages of a network in torchvision naming.

    Args:
        model: has ``conv1``, ``bn1`` and ``layer1`` to ``layer4``, or the first of these layers.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n.
    """
    if frozen_stages < 0:
        return
    frozen = [model.conv1, model.bn1, *(getattr(model, f"layer{i}") for i in range(1, frozen_stages + 1))]
    for module in frozen:
        assert isinstance(module, nn.Module)
        module.eval()
        module.requires_grad_(False)


def freeze_norm_statistics(model: nn.Module) -> None:
    """Put every batch norm below ``model`` into evaluation mode; its scale and shift still learn."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
