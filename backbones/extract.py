"""Cutting one network, with its weights, out of the supernet."""

from __future__ import annotations

from typing import Any

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.grouped import Path
from data_plugin.backbones.routed_resnet import RoutedResNet
from data_plugin.backbones.sliced import leading_slice
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError


def extract(supernet: DynamicResNet | RoutedResNet, arch: Arch, path: Path | None = None, **options: Any) -> DATAResNet:
    """One network of the supernet as plain modules, with a copy of the weights that it shares.

    Args:
        supernet: the supernet; it stays as it is.
        arch: the network, anything inside the supernet's largest.
        path: the sub-net of a :class:`RoutedResNet`, and of nothing else.
        options: passed to :class:`DATAResNet`; to compute what the supernet computes, give the strides and
            dilations that it has.

    Returns:
        The network, in the supernet's training or evaluation mode and on its device.

    Raises:
        UserError: if ``arch`` does not fit inside the largest network, or there is no such
            sub-net.
    """
    supernet.require_inside(arch)
    if isinstance(supernet, RoutedResNet):
        supernet = supernet.along(path or ())
    elif path is not None:
        raise UserError(f"a supernet without groups has no sub-net {path}; leave out the path")
    network = DATAResNet(arch, **options)
    shared = supernet.state_dict()
    network.load_state_dict(
        {name: leading_slice(shared[name], value.shape) for name, value in network.state_dict().items()}
    )
    device = next(supernet.parameters()).device
    return network.to(device).train(supernet.training)
