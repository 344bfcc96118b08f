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
from safetensors.torch import save_file
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.tensor_files import content_hash, read_tensors, require_finite, require_matching

_HEADER, _HASH = "data_plugin.supernet", "data_plugin.sha256"
_QUERY, _KEY, _HEADS = "query.", "key.", "heads."


@dataclass(frozen=True)
class SupernetInfo:
    """What a supernet's weights do not say.

    Args:
        space: the search space.
        method: the self-supervised method that trained it, such as ``mocov2``.
        input_format: channel order and normalisation of the pre-training.
        training: how it was trained (image size, steps, data fingerprint, versions, ...), JSON values only.
    """

    space: SearchSpace
    method: str
    input_format: InputFormat
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            "space": self.space.to_json(),
            "method": self.method,
            "input_format": self.input_format.to_json(),
            "training": dict(self.training),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SupernetInfo:
        """What :meth:`to_json` wrote."""
        return cls(
            space=SearchSpace.from_json(value["space"]),
            method=value["method"],
            input_format=InputFormat.from_json(value["input_format"]),
            training=value["training"],
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


def save_supernet(path: Path, supernet: Supernet, half: bool = False) -> None:
    """Write a supernet as one ``.safetensors`` file, whole or not at all.

    Its header has :class:`SupernetInfo`, and :func:`content_hash` of that and the tensors.

    Args:
        path: the file to make or replace.
        supernet: the supernet.
        half: write the weights in half precision, for half the space.

    Raises:
        UserError: if a weight is not finite, or half precision cannot hold it (65504 at the most).
    """
    tensors = {
        **{_QUERY + name: value for name, value in supernet.query.state_dict().items()},
        **{_KEY + name: value for name, value in supernet.key.state_dict().items()},
        **{_HEADS + name: value for name, value in supernet.heads.items()},
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    require_finite(path, tensors)
    info = json.dumps(supernet.info.to_json())
    header = {_HEADER: info, _HASH: content_hash(tensors, info)}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def load_supernet(path: str | os.PathLike[str], space: SearchSpace | None = None) -> Supernet:
    """Read a supernet that :func:`save_supernet` wrote.

    A file without a hash, as earlier versions wrote it, is read with a warning: it stands for days of training, and the
    hash is there against accidents, which nearly every such file has not had. To save what was loaded gives it a hash.

    Args:
        path: the ``.safetensors`` file.
        space: the space that it must have; without it any.

    Returns:
        The supernet in evaluation mode on the CPU.

    Raises:
        UserError: if the file is missing, truncated, unsafe to read, no supernet, of another space, if its weights do
            not match the space that it names, are not those that were written, or are not finite.
    """
    path = Path(path)
    tensors, header = read_tensors(path)
    if _HEADER not in header:
        raise UserError(
            f"{path} is not a supernet of this project; expected the .safetensors file that pre-training writes"
        )
    try:
        info = SupernetInfo.from_json(json.loads(header[_HEADER]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a header that cannot be read ({error}); write the supernet again") from error
    if space is not None and info.space != space:
        raise UserError(
            f"{path} is a supernet of another space, whose largest network is {info.space.largest}; "
            f"expected {space.largest}"
        )
    query = _branch(path, info.space, tensors, _QUERY)
    key = _branch(path, info.space, tensors, _KEY)
    _require_intact(path, tensors, header)
    return Supernet(info, query, key, _below(tensors, _HEADS))


def _branch(path: Path, space: SearchSpace, tensors: Mapping[str, Tensor], prefix: str) -> DynamicResNet:
    network = DynamicResNet(space)
    weights = _below(tensors, prefix)
    require_matching(path, weights, network.state_dict(), f"the {prefix[:-1]} branch of the space that it names")
    network.load_state_dict(weights)
    return network.eval()


def _require_intact(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    if _HASH not in header:
        warnings.warn(
            f"{path}, which an earlier version wrote, has no hash of its weights, so they may be others than were "
            "trained; give it one with save_supernet(path, load_supernet(path))",
            stacklevel=3,
        )
    elif content_hash(tensors, header[_HEADER]) != header[_HASH]:
        raise UserError(f"{path} is damaged: its weights are not those that its hash was made of; copy it again")
    require_finite(path, tensors)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
