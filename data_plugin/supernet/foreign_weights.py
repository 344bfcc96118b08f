"""The weights of a bottleneck ResNet in a file of any of the layouts that others write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import STAGES, Arch
from data_plugin.supernet.checkpoint import require_intact, several_sub_nets, supernet_info
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_finite, require_matching

PREFERRED: Mapping[str, str | None] = {
    "query.": "key.",
    "encoder_q.0.": "encoder_k.0.",
    "encoder_q.": "encoder_k.",
    "base_encoder.": "momentum_encoder.",
    "backbone.": None,
    "": None,
}
"""Ends of prefixes that a backbone's names may have, the first that a file has being taken, and the ends that those of
its moving average then have: ours, the authors' release, MoCo's, MoCo v3's, MMPretrain's, torchvision's and timm's."""

TEACHER = "teacher"
"""The entry of a file that is taken before its others: in DINO's checkpoints the network that DINO publishes."""

_MARK = "layer1.0.conv1.weight"
_PARTS = ("conv1.", "bn1.", *(f"layer{stage + 1}." for stage in range(STAGES)))
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class BackboneWeights:
    """The weights of one bottleneck ResNet.

    Args:
        file: the file's name.
        arch: its architecture, read from the shapes.
        weights: state dict in torchvision's names.
        left_out: how many of the file's entries are no part of it, by what their names begin with.
        saw_labels: what a supernet's file says of that, see :attr:`SupernetInfo.saw_labels`; None for others.
        entry: see :class:`ForeignFile`.
    """

    file: str
    arch: Arch
    weights: Mapping[str, Tensor]
    left_out: Mapping[str, int]
    saw_labels: bool | None = None
    entry: str | None = None

    def network(self) -> DATAResNet:
        """The network with these weights."""
        network = DATAResNet(self.arch)
        network.load_state_dict(self.weights)
        return network


@dataclass(frozen=True)
class ForeignFile:
    """A file with a bottleneck ResNet in it, and whatever else it holds.

    Args:
        path: the file.
        tensors: the tensors of the mapping that the ResNet is in, by the file's names.
        others: names of the file's other entries.
        prefix: what the ResNet's names begin with.
        average: what the names of its moving average begin with; None if there is none.
        saw_labels: see :class:`BackboneWeights`.
        entry: which of the file's entries the mapping is, where several hold a ResNet; None otherwise.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]
    prefix: str
    average: str | None
    saw_labels: bool | None
    entry: str | None = None

    @classmethod
    def open(cls, path: Path) -> ForeignFile:
        """Read a file and find the ResNet in it.

        Args:
            path: a ``.safetensors`` or PyTorch file; see :data:`PREFERRED` for the layouts.

        Raises:
            UserError: if the file cannot be read safely, holds no such network, or several and none of a known layout,
                or is a supernet that is not what was written.
        """
        contents, header = read_tensors(path)
        info = supernet_info(path, header)
        if info is not None:
            require_intact(path, contents, header)
            if info.groups is not None:
                raise several_sub_nets(path, info)
        found, entry = _mapping(path, contents)
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        others = [name for name in found if name not in tensors]
        if found is not contents:
            others += [name for name, value in contents.items() if value is not found]
        saw_labels = None if info is None else info.saw_labels
        return cls(path, tensors, tuple(map(str, others)), *_prefixes(path, tensors), saw_labels, entry)

    def backbone(self, prefix: str) -> dict[str, Tensor]:
        """A copy of the weights of one ResNet, in single precision and torchvision's names.

        Args:
            prefix: :attr:`prefix` or :attr:`average`.

        Raises:
            UserError: if they are not those of a plain ResNet of bottlenecks, whole, or not finite.
        """
        place = f"{self.path} ({prefix}*)" if prefix else str(self.path)
        weights = {name: value for name, value in self.below(prefix).items() if name.startswith(_PARTS)}
        arch = _arch(place, weights)
        with torch.device("meta"):
            layout = DATAResNet(arch).state_dict()
        # Nothing computes with the counts, and not every file has them.
        weights = {**{name: torch.tensor(0) for name in layout if name.endswith(_COUNT)}, **weights}
        require_matching(place, weights, layout, f"a plain ResNet of bottlenecks, such as {arch}")
        require_finite(place, weights)
        return {name: weights[name].to(value.dtype, copy=True) for name, value in layout.items()}

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def left_out(self, taken: Collection[str]) -> dict[str, int]:
        """How many of the file's entries were not taken, by what their names begin with.

        Args:
            taken: the file's names of those that were.
        """
        prefixes = [prefix for prefix in (self.prefix, self.average) if prefix is not None]
        branches = [_bare(prefix) for prefix in prefixes if any(name.startswith(prefix) for name in taken)]
        counts: Counter[str] = Counter()
        for name in (*self.tensors, *self.others):
            if name not in taken:
                bare = _bare(name)
                branch = next((branch for branch in branches if bare.startswith(branch)), "")
                first, dot, _ = bare.removeprefix(branch).partition(".")
                counts[branch + first + dot] += 1
        return dict(counts)


def read_backbone(path: str | os.PathLike[str]) -> BackboneWeights:
    """Read the backbone out of a file: a supernet's largest network (the query branch's), or any bottleneck ResNet.

    Args:
        path: a ``.safetensors`` or PyTorch file, see :data:`PREFERRED` for the layouts; or "shipped" for the supernet
            that comes with the package.

    Raises:
        UserError: see :meth:`ForeignFile.open` and :meth:`ForeignFile.backbone`.
    """
    file = ForeignFile.open(named_supernet(path))
    weights = file.backbone(file.prefix)
    left_out = file.left_out({file.prefix + name for name in weights})
    return BackboneWeights(Path(path).name, Arch.from_weights(weights), weights, left_out, file.saw_labels, file.entry)


def listed(left_out: Mapping[str, int]) -> list[str]:
    """What was left out, for people: ``fc.* (2)``, ``queue``."""
    return [f"{name}* ({count})" if name.endswith(".") else name for name, count in left_out.items()]


def taken_from(entry: str) -> str:
    """Which of several networks in a file was taken, for people."""
    return f"the file's entry {entry!r} was taken; others hold a network, too"


def _mapping(path: Path, contents: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str | None]:
    """The mapping that a ResNet is in, and which entry of the file it is, where several hold one."""
    if _holds_resnet(contents):
        return contents, None
    entries = {name: value for name, value in contents.items() if isinstance(value, Mapping) and _holds_resnet(value)}
    if entries:
        name = TEACHER if TEACHER in entries else next(iter(entries))
        return entries[name], str(name) if len(entries) > 1 else None
    raise UserError(
        f"{path} has no entry {_MARK}; expected a supernet, or a ResNet of bottlenecks in the names of torchvision, "
        "timm, MMPretrain or MoCo"
    )


def _holds_resnet(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, str) and name.endswith(_MARK) for name in mapping)


def _prefixes(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str | None]:
    found = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    for preferred, averaged in PREFERRED.items():
        for prefix in found:
            if _bare(prefix) == preferred:
                average = None if averaged is None else prefix.removesuffix(preferred) + averaged
                return prefix, average if average in found else None
    if len(found) > 1:
        raise UserError(f"{path} holds several networks ({', '.join(found)}); expected one, save it alone")
    return found[0], None


def _bare(name: str) -> str:
    """A name without what DistributedDataParallel puts before it."""
    return name.removeprefix("module.")


def _arch(place: str, weights: Mapping[str, Tensor]) -> Arch:
    try:
        return Arch.from_weights(weights)
    except KeyError as error:
        raise UserError(f"{place} lacks {error.args[0]}; expected a ResNet with a 7x7 stem and four stages") from error
