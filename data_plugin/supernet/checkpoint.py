"""The file of a pre-trained supernet: both branches, the heads, and what has to be known to use them."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.grouped import Path as Route
from data_plugin.backbones.routed_resnet import RoutedResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.named_supernet import is_shipped, named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import (
    content_hash,
    read_tensors,
    require_finite,
    require_matching,
    write_safetensors,
)

_HEADER, _HASH = "data_plugin.supernet", "data_plugin.sha256"
_QUERY, _KEY, _SHARED, _HEADS = "query.", "key.", "shared.", "heads."
_BRANCHES, _BOTH, _ONE = "branches", "both", "one"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Groups:
    """The groups of a supernet with sub-nets, and which images each sub-net was trained on.

    Args:
        groups: groups in a stage; what a digit of a code may be.
        levels: stages with groups; digits of a code.
        codes: fingerprint of the codes that the images had, see :class:`~data_plugin.features.codes.Codes`.
    """

    groups: int
    levels: int
    codes: str


@dataclass(frozen=True)
class SupernetInfo:
    """What a supernet's weights do not say.

    Args:
        space: the search space.
        method: the self-supervised method that trained it, such as ``mocov2``.
        input_format: channel order and normalisation of the pre-training.
        training: how it was trained (image size, steps, data fingerprint, versions, ...), JSON values only.
        groups: the groups of one with sub-nets; None for one without.
    """

    space: SearchSpace
    method: str
    input_format: InputFormat
    training: Mapping[str, Any] = field(default_factory=dict)
    groups: Groups | None = None

    @property
    def saw_labels(self) -> bool | None:
        """Whether labels had a part in the weights: those of a frozen teacher, of this training or of the one that it
        started from; None where nothing is said of it, as where there was no such teacher."""
        own = (self.training.get("recipe") or {}).get("settings", {}).get("teacher_saw_labels")
        started_from = (self.training.get("init") or {}).get("saw_labels")
        return own if started_from is None else own or started_from

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            "space": self.space.to_json(),
            "method": self.method,
            "input_format": self.input_format.to_json(),
            "training": dict(self.training),
            **({} if self.groups is None else {"groups": dataclasses.asdict(self.groups)}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SupernetInfo:
        """What :meth:`to_json` wrote."""
        return cls(
            space=SearchSpace.from_json(value["space"]),
            method=value["method"],
            input_format=InputFormat.from_json(value["input_format"]),
            training=value["training"],
            groups=Groups(**value["groups"]) if "groups" in value else None,
        )


@dataclass(frozen=True)
class Supernet:
    """A pre-trained supernet.

    Args:
        info: the space and how it was trained.
        query: the query branch, whose subnets are the students.
        key: the key branch, whose largest network is the teacher.
        heads: weights of the projection heads, named by the method.
    """

    info: SupernetInfo
    query: DynamicResNet
    key: DynamicResNet
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, device: torch.device, **resolution: Any) -> Supernet:
        """Both branches on a device, at the strides and dilations of a config; this one stays as it is.

        Args:
            device: the device.
            resolution: arguments of :class:`DynamicResNet`, see ``Resolution.options``.
        """
        query, key = (branch.with_options(**resolution).to(device) for branch in (self.query, self.key))
        return dataclasses.replace(self, query=query, key=key)


@dataclass(frozen=True)
class RoutedSupernet:
    """A pre-trained supernet with groups, whose sub-nets each saw one part of the data.

    Args:
        info: the space, its groups and how it was trained.
        query: the query branch.
        key: the key branch.
        heads: weights of the projection heads, which all sub-nets share, named by the method.
    """

    info: SupernetInfo
    query: RoutedResNet
    key: RoutedResNet
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    def along(self, path: Route) -> Supernet:
        """One sub-net with a copy of its weights; its ``training`` says which it is.

        Raises:
            UserError: if there is no such sub-net.
        """
        assert self.info.groups is not None
        sub_net = {"sub_net": {"path": list(path), **dataclasses.asdict(self.info.groups)}}
        info = dataclasses.replace(self.info, groups=None, training={**self.info.training, **sub_net})
        return Supernet(info, self.query.along(path), self.key.along(path), self.heads)


def save_supernet(
    path: Path, supernet: Supernet | RoutedSupernet, half: bool = False, one_branch: bool = False
) -> None:
    """Write a supernet as one ``.safetensors`` file, whole or not at all.

    Its header has :class:`SupernetInfo`, how many branches are in the file, and :func:`content_hash` of that and the
    tensors.

    Args:
        path: the file to make or replace.
        supernet: the supernet.
        half: write the weights in half precision, for half the space.
        one_branch: write one branch and its heads, for half the space again; who reads the file gets them as both. The
            weights are the key branch's, the average. Running statistics of batch norms are the query branch's: the key
            branch has those of its largest network alone, or none at all where a frozen teacher stood in its place.

    Raises:
        UserError: if a weight is not finite, or half precision cannot hold it (65504 at the most).
    """
    branches = _named(_QUERY, supernet.query.state_dict()) | _named(_KEY, supernet.key.state_dict())
    heads = dict(supernet.heads)
    if one_branch:
        branches, heads = _joined(branches), _joined(heads)
    tensors = {name: value.detach().cpu().contiguous() for name, value in (branches | _named(_HEADS, heads)).items()}
    require_finite(path, tensors)
    if half:
        tensors = {name: _halved(path, name, value) for name, value in tensors.items()}
    info = json.dumps({**supernet.info.to_json(), _BRANCHES: _ONE if one_branch else _BOTH})
    header = {_HEADER: info, _HASH: content_hash(tensors, info)}
    write_safetensors(path, tensors, header)


def load_supernet(
    path: str | os.PathLike[str], space: SearchSpace | None = None, sub_net: Route | None = None
) -> Supernet:
    """Read a supernet that :func:`save_supernet` wrote, or one sub-net of it.

    A file without a hash, as earlier versions wrote it, is read with a warning: it stands for days of training, and the
    hash is there against accidents, which nearly every such file has not had. To save what was loaded gives it a hash.

    Args:
        path: the ``.safetensors`` file, or "shipped" for the supernet that comes with the package, see
            :func:`~data_plugin.supernet.named_supernet.named_supernet`.
        space: the space that it must have; without it any.
        sub_net: the path of a sub-net, where the file holds such; they are read one by one.

    Returns:
        The supernet in evaluation mode and single precision on the CPU.

    Raises:
        UserError: if the file is missing, truncated, unsafe to read, no supernet, of another space, if its weights do
            not match the space that it names, are not those that were written, or are not finite; if it holds sub-nets
            and none is named, or one that it does not hold.
    """
    loaded = _load(named_supernet(path), space)
    if isinstance(loaded, RoutedSupernet):
        if sub_net is None:
            raise several_sub_nets(path, loaded.info)
        return loaded.along(sub_net)
    if sub_net is not None:
        raise UserError(f"{path} has no sub-nets; leave out the path {','.join(map(str, sub_net))}")
    return loaded


def load_routed_supernet(path: str | os.PathLike[str]) -> RoutedSupernet:
    """Read a supernet with groups that :func:`save_supernet` wrote, in evaluation mode on the CPU.

    Raises:
        UserError: see :func:`load_supernet`; or if it has no groups.
    """
    loaded = _load(named_supernet(path), None)
    if not isinstance(loaded, RoutedSupernet):
        raise UserError(f"{path} is a supernet without groups; expected one that data-pretrain --codes trained")
    return loaded


def several_sub_nets(path: str | os.PathLike[str], info: SupernetInfo) -> UserError:
    """What says that a supernet with groups is not one network."""
    assert info.groups is not None
    count, example = info.groups.groups**info.groups.levels, ",".join(["0"] * info.groups.levels)
    return UserError(
        f"{path} holds {count} sub-nets, and one supernet was expected; data-route writes the one for a task, and "
        f"data-embed and data-evaluate take one by --path {example}"
    )


def _load(path: Path, space: SearchSpace | None) -> Supernet | RoutedSupernet:
    stored, header = read_tensors(path)
    info = supernet_info(path, header)
    if info is None:
        raise UserError(
            f"{path} is not a supernet of this project; expected the .safetensors file that pre-training writes"
        )
    if space is not None and info.space != space:
        raise UserError(
            f"{path} is a supernet of another space, whose largest network is {info.space.largest}; "
            f"expected {space.largest}"
        )
    tensors = _as_both(stored) if json.loads(header[_HEADER]).get(_BRANCHES) == _ONE else stored
    query, key = (_branch(path, info, tensors, prefix) for prefix in (_QUERY, _KEY))
    require_intact(path, stored, header)
    heads = {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in _below(tensors, _HEADS).items()
    }
    of_kind: Any = Supernet if info.groups is None else RoutedSupernet
    return of_kind(info, query, key, heads)


def supernet_info(path: Path, header: Mapping[str, str]) -> SupernetInfo | None:
    """What the header of a ``.safetensors`` file says of a supernet; None where the file is none.

    Args:
        path: the file, for the message.
        header: its header.

    Raises:
        UserError: if the header cannot be read.
    """
    if _HEADER not in header:
        return None
    try:
        value = json.loads(header[_HEADER])
        if value.get(_BRANCHES, _BOTH) not in (_BOTH, _ONE):
            raise ValueError(f"branches {value[_BRANCHES]!r}")
        return SupernetInfo.from_json(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a header that cannot be read ({error}); write the supernet again") from error


def pretrained_size(path: str | os.PathLike[str], info: SupernetInfo) -> int:
    """Height and width of the images of a supernet's pre-training in pixels.

    Args:
        path: the supernet's file, for the message.
        info: what its header says.

    Raises:
        UserError: if it does not say.
    """
    size = info.training.get("image_size")
    if not isinstance(size, int):
        name = os.fspath(path)
        raise UserError(f"{name} does not say at which image size it was pre-trained; give one with --image-size")
    return size


def require_intact(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Check that a supernet's file holds what was written into it.

    Args:
        path: the file, for the message.
        tensors: what it holds.
        header: what its header says.

    Raises:
        UserError: if the hash is of something else, or a number is not finite. A file without a hash is warned of.
    """
    if _HASH not in header:
        warnings.warn(
            f"{path}, which an earlier version wrote, has no hash of its weights, so they may be others than were "
            "trained; give it one with save_supernet(path, load_supernet(path))",
            stacklevel=3,
        )
    elif content_hash(tensors, header[_HEADER]) != header[_HASH]:
        remedy = "install data_plugin again" if is_shipped(path) else "copy it again"
        raise UserError(f"{path} is damaged: its weights are not those that its hash was made of; {remedy}")
    require_finite(path, tensors)


def _branch(path: Path, info: SupernetInfo, tensors: Mapping[str, Tensor], prefix: str) -> DynamicResNet | RoutedResNet:
    groups = info.groups
    network = DynamicResNet(info.space) if groups is None else RoutedResNet(info.space, groups.groups, groups.levels)
    weights = _below(tensors, prefix)
    require_matching(path, weights, network.state_dict(), f"the {prefix[:-1]} branch of the space that it names")
    network.load_state_dict(weights)
    return network.eval()


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What both branches have once: the weights of the key branch, the running statistics of the query branch."""
    query, key = _below(tensors, _QUERY), _below(tensors, _KEY)
    if query.keys() != key.keys():
        return dict(tensors)
    others = {name: value for name, value in tensors.items() if not name.startswith((_QUERY, _KEY))}
    return others | _named(_SHARED, {n: query[n] if n.endswith(_STATISTICS) else key[n] for n in key})


def _as_both(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of one branch as of a file of both."""
    found = {name: value for name, value in tensors.items() if not name.startswith((_SHARED, _HEADS + _SHARED))}
    for part in ("", _HEADS):
        shared = _below(tensors, part + _SHARED)
        found |= _named(part + _QUERY, shared) | _named(part + _KEY, shared)
    return found


def _halved(path: Path, name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise UserError(
            f"{path} cannot be written in half precision, which ends at 65504: {name} has a value of "
            f"{value.abs().max().item():.3g}; write it in single precision"
        )
    return half


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
