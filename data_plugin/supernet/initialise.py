"""Starting a supernet from weights that exist: what they compute stays, whatever is wider or deeper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.space.arch import STAGES
from data_plugin.supernet.foreign_weights import BackboneWeights, listed
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Started:
    """What became of given weights.

    Args:
        source: the weights.
        taken: how many of their tensors were taken.
        widened: how many of these have become larger.
        new_blocks: how many blocks of the supernet they do not have, which start as the identity.
        lost_blocks: names of their blocks that the supernet has no place for.
    """

    source: BackboneWeights
    taken: int
    widened: int
    new_blocks: int
    lost_blocks: tuple[str, ...]

    def __str__(self) -> str:
        """One line for people."""
        source = self.source
        said = [
            f"started from {source.file} ({source.arch}): {self.taken} of its {len(source.weights)} backbone tensors "
            f"taken, {self.widened} of them widened, {self.new_blocks} new blocks start as the identity"
        ]
        if source.left_out:
            said.append(f"left out: {', '.join(listed(source.left_out))}")
        if self.lost_blocks:
            said.append(f"NOT THE SAME FUNCTION: no place for {', '.join(self.lost_blocks)}")
        return "; ".join(said)


def start_from(network: DynamicResNet, source: BackboneWeights) -> Started:
    """Give a supernet's largest network the function of a smaller one.

    New channels start as copies of the old, and whatever reads channels gives the copies no weight: the first channels
    of every feature map are the source's, those after them the same again, and the network that has the source's
    architecture computes what the source computes. (Net2Net, Chen et al., 2016, arXiv:1511.05641, shares a channel's
    weight out among its copies, which would spoil the networks that have no copies.) A new block ends in a batch norm
    of scale 0 and passes its input on, as in Net2DeeperNet. Blocks that the supernet does not have are left out.

    Args:
        network: the supernet; changed in place.
        source: the weights.

    Raises:
        UserError: if the source is wider somewhere than the supernet's largest network.
    """
    largest = network.space.largest
    if any(ours > theirs for ours, theirs in zip(source.arch.paper_width, largest.paper_width, strict=True)):
        raise UserError(
            f"{source.file} is {source.arch}, wider than this space's largest network, {largest}; "
            "expected weights that fit inside it"
        )
    state = network.state_dict()
    taken = {name: value for name, value in source.weights.items() if name in state}
    for name, value in taken.items():
        state[name].copy_(_widened(value, state[name].shape))
    new_blocks = 0
    for index in range(STAGES):
        for block in network.blocks(index)[source.arch.depth[index] :]:
            torch.nn.init.zeros_(block.bn3.weight)
            new_blocks += 1
    return Started(
        source,
        len(taken),
        sum(value.shape != state[name].shape for name, value in taken.items()),
        new_blocks,
        tuple(dict.fromkeys(".".join(name.split(".")[:2]) for name in source.weights if name not in state)),
    )


def _widened(value: Tensor, shape: torch.Size) -> Tensor:
    """Copies along the output channels, zeros along the input channels."""
    if value.shape == shape:
        return value
    wide = value[torch.arange(shape[0]) % len(value)]
    if value.dim() == 1:
        return wide
    return torch.cat([wide, wide.new_zeros(shape[0], shape[1] - wide.shape[1], *shape[2:])], dim=1)
