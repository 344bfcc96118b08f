"""Reading a network that others trained, such as MoCo's ResNet-50, as the supernet of a space of one network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo
from data_plugin.supernet.foreign_weights import ForeignFile, listed, taken_from
from data_plugin.supernet.imported import Imported, origin
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import require_finite, require_matching

HEAD = ("0.weight", "0.bias", "2.weight", "2.bias")
"""MoCo v2's projection head, below ``fc.``: a linear layer, a ReLU, a linear layer."""


def read_one_network(path: Path, space: SearchSpace, input_format: InputFormat, image_size: int = 224) -> Imported:
    """Read a bottleneck ResNet as the supernet of a space that has no other network.

    A moving average of it in the same file is the key branch, the teacher; without one that is the network itself.
    MoCo v2's heads are taken, any others left out.

    Args:
        path: a file of one of the layouts of :data:`~data_plugin.supernet.foreign_weights.PREFERRED`. Its names do not
            tell whether the stride is in the 3x3 convolutions, as it is here, or in the 1x1 ones before them.
        space: the space of this one network.
        input_format: channel order and normalisation of its training, which the file does not name.
        image_size: height and width of the images of that training in pixels, another thing that it does not name.

    Raises:
        UserError: if the file cannot be read safely, holds no such network, weights are not finite, or the space is not
            that of the network.
    """
    file = ForeignFile.open(path)
    prefixes = {"query": file.prefix} if file.average is None else {"query": file.prefix, "key": file.average}
    weights = {branch: file.backbone(prefix) for branch, prefix in prefixes.items()}
    arch = Arch.from_weights(weights["query"])
    _require_alone(path, arch, space)
    heads = {branch: _head(file, prefix, arch) for branch, prefix in prefixes.items()}
    has_heads = all(heads.values())
    notes, teacher = [] if file.entry is None else [taken_from(file.entry)], "key"
    if file.average is None:
        notes.append("no moving average of the network: the key branch, which is the teacher, is a copy of it")
        teacher = "query"
    require_matching(path, weights[teacher], weights["query"], f"a moving average of {arch}")
    if not has_heads:
        notes.append("no heads in the names of MoCo v2's: the supernet has no tap z, search with feature maps")
    taken = {}
    for branch, prefix in prefixes.items():
        taken[branch] = file.tensors.keys() & {prefix + name for name in weights[branch]}
        if has_heads:
            taken[f"{branch} head"] = {f"{prefix}fc.{name}" for name in heads[branch]}
    method = "mocov2" if has_heads else "unknown"
    supernet = Supernet(
        SupernetInfo(space, method, input_format, origin(path, image_size)),
        _network(space, weights["query"]),
        _network(space, weights[teacher]),
        {
            # lightly's MoCo head, which ours is, says "layers" for MoCo's "fc".
            f"{branch}.layers.{name}": value.to(torch.float32, copy=True)
            for branch, source in (("query", "query"), ("key", teacher))
            for name, value in heads[source].items()
            if has_heads
        },
    )
    entries = {part: len(names) for part, names in taken.items()}
    return Imported(supernet, entries, listed(file.left_out(set().union(*taken.values()))), tuple(notes))


def _require_alone(path: Path, arch: Arch, space: SearchSpace) -> None:
    if len(space) > 1 or space.largest != arch:
        raise UserError(
            f"{path} holds one network, {arch}, and the space has {len(space)}, the largest {space.largest}; expected "
            f"a space of this network alone, a .json file with {json.dumps(SearchSpace.of(arch).to_json())}; to train "
            "a larger space from these weights, give them to data-pretrain --init"
        )


def _head(file: ForeignFile, prefix: str, arch: Arch) -> dict[str, Tensor]:
    """The head of a branch; none if it is not MoCo v2's."""
    head = file.below(f"{prefix}fc.")
    if set(head) != set(HEAD):
        return {}
    hidden, dim = (head[f"{layer}.bias"].numel() for layer in (0, 2))
    with torch.device("meta"):
        layout = nn.Sequential(nn.Linear(arch.out_channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, dim)).state_dict()
    place = f"{file.path} ({prefix}fc.*)"
    require_matching(place, head, layout, f"a head of MoCo v2 for {arch}")
    require_finite(place, head)
    return head


def _network(space: SearchSpace, weights: Mapping[str, Tensor]) -> DynamicResNet:
    network = DynamicResNet(space)
    network.load_state_dict(weights)
    return network.eval()
