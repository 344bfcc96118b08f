"""Starting a supernet from weights that exist: what they compute stays, whatever is wider or deeper."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.space.arch import STAGES, Arch
from data_plugin.supernet.checkpoint import require_intact, supernet_info
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_matching

PREFERRED = ("query.", "encoder_q.0.", "encoder_q.", "base_encoder.", "backbone.", "")
"""Ends of prefixes that a backbone's names may have, the first that a file has being taken: ours, the authors' release,
MoCo's, MoCo v3's, MMPretrain's, torchvision's and timm's."""

_MARK = "layer1.0.conv1.weight"
_PARTS = ("conv1.", "bn1.", *(f"layer{stage + 1}." for stage in range(STAGES)))
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class BackboneWeights:
    """The weights of one bottleneck ResNet, read from a file of any of the known layouts.

    Args:
        file: the file's name.
        arch: its architecture, read from the shapes.
        weights: state dict in torchvision's names.
        left_out: how many of the file's tensors are no part of it, by what their names begin with.
        saw_labels: what a supernet's file says of that, see :attr:`SupernetInfo.saw_labels`; None for others.
    """

    file: str
    arch: Arch
    weights: Mapping[str, Tensor]
    left_out: Mapping[str, int]
    saw_labels: bool | None = None


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
            said.append("left out: " + ", ".join(f"{name}* ({count})" for name, count in source.left_out.items()))
        if self.lost_blocks:
            said.append(f"NOT THE SAME FUNCTION: no place for {', '.join(self.lost_blocks)}")
        return "; ".join(said)


def read_backbone(path: str | os.PathLike[str]) -> BackboneWeights:
    """Read the backbone out of a file: a supernet's largest network (the query branch's), or any bottleneck ResNet.

    Args:
        path: a ``.safetensors`` or PyTorch file, see :data:`PREFERRED` for the layouts; or "shipped" for the supernet
            that comes with the package.

    Raises:
        UserError: if the file cannot be read safely, holds no such network, or several and none of a known layout, or
            is a supernet that is not what was written.
    """
    file, path = Path(path).name, named_supernet(path)
    contents, header = read_tensors(path)
    info = supernet_info(path, header)
    if info is not None:
        require_intact(path, contents, header)
    tensors = _tensors(path, contents)
    prefix = _prefix(path, tensors)
    ours = {name: tensors[prefix + name] for name in _below(tensors, prefix) if name.startswith(_PARTS)}
    arch = _arch(path, ours)
    with torch.device("meta"):
        layout = DATAResNet(arch).state_dict()
    # Nothing computes with the counts, and not every file has them.
    ours = {**{name: torch.tensor(0) for name in layout if name.endswith(_COUNT)}, **ours}
    require_matching(path, ours, layout, f"a plain ResNet of bottlenecks, such as {arch}")
    left_out = Counter(name.split(".")[0] + "." for name in _below(tensors, prefix) if not name.startswith(_PARTS))
    left_out.update(name.split(".")[0] + "." for name in tensors if not name.startswith(prefix))
    weights = {name: value.float() for name, value in ours.items()}
    return BackboneWeights(file, arch, weights, dict(left_out), None if info is None else info.saw_labels)


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


def _tensors(path: Path, contents: Mapping[str, Any]) -> dict[str, Tensor]:
    nested: list[Mapping[str, Any]] = [contents, *(value for value in contents.values() if isinstance(value, Mapping))]
    for candidate in nested:
        if any(isinstance(name, str) and name.endswith(_MARK) for name in candidate):
            return {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
    raise UserError(
        f"{path} has no entry {_MARK}; expected a supernet, or a ResNet of bottlenecks in the names of torchvision, "
        "timm, MMPretrain or MoCo"
    )


def _prefix(path: Path, tensors: Mapping[str, Tensor]) -> str:
    found = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    for preferred in PREFERRED:
        for prefix in found:
            if prefix.removeprefix("module.") == preferred:
                return prefix
    if len(found) > 1:
        raise UserError(f"{path} holds several networks ({', '.join(found)}); expected one, save it alone")
    return found[0]


def _arch(path: Path, weights: Mapping[str, Tensor]) -> Arch:
    try:
        return Arch.from_weights(weights)
    except KeyError as error:
        raise UserError(f"{path} lacks {error.args[0]}; expected a ResNet with a 7x7 stem and four stages") from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
