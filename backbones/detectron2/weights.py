"""Backbone files in torchvision's names, as detectron2's own checkpointer loads them into a detector.

Asked by ``?matching_heuristics=True`` behind a file's name, detectron2 finds the places of weights by the ends of their
names, takes what fits and logs the rest. Our modules hold their weights under torchvision's names, and each of them
refuses to be loaded in part.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_matching

BY_NAME_ENDINGS = "?matching_heuristics=True"
"""What lets detectron2 load a file in torchvision's names into a detector; it follows the file's name."""

_LOGGER = logging.getLogger("detectron2.data_plugin")
"""Below detectron2's own, so that its tools print and keep what is said."""

_COUNTER = "num_batches_tracked"
"""Files may lack it and frozen norms have none; nothing here computes with it."""


class LoadedWhole(nn.Module):
    """Mixin of a module that holds weights under torchvision's names and is loaded with all of them or with none."""

    arch: Arch

    def file_entries(self) -> dict[str, Tensor]:
        """The module's weights that a backbone file has."""
        return _without_counters(self.state_dict())

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = self.file_entries()
        parts = {_part(name) for name in expected}
        missing = [name for name in expected if prefix + name not in state_dict]
        # Loading begins at the detector, where names that none of its modules has a place for are found without prefix.
        left_over = {name for name in unexpected_keys if _part(name) in parts}
        unexpected_keys[:] = [name for name in unexpected_keys if not (name in left_over and name.endswith(_COUNTER))]
        left_over &= set(unexpected_keys)
        if left_over or 0 < len(missing) < len(expected):
            raise UserError(_what_differs(f"the backbone {self.arch}", expected, missing, left_over))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        matched = len(expected) - len(missing)
        counts = f"{matched} of {len(expected)} matched, {len(missing) or 'none'} missing, none unexpected"
        _LOGGER.info(f"the weights of {self.arch} in {type(self).__name__}: {counts}")


def require_start(path: Path, model: nn.Module, what: str) -> str:
    """Check that a detector can start training from a file: from its backbone, or from the whole detector.

    Args:
        path: a backbone in torchvision's names, or a detector as detectron2 saves it.
        model: the detector.
        what: the detector, for the message.

    Returns:
        The file as ``MODEL.WEIGHTS`` has to name it.

    Raises:
        UserError: if detectron2 cannot read the file or it holds neither; the message lists what did not match.
    """
    tensors = _read(path)
    ours = [module for module in model.modules() if isinstance(module, LoadedWhole)]
    entries = {name: value for module in ours for name, value in module.file_entries().items()}
    if not set(entries) & set(tensors):
        require_matching(path, _without_counters(tensors), _without_counters(model.state_dict()), what)
        return str(path)
    # A stage that the model does not have, or the classifier, is left over; detectron2 logs that.
    parts = {_part(name) for name in entries}
    found = {name: value for name, value in tensors.items() if _part(name) in parts}
    require_matching(path, _without_counters(found), entries, f"the backbone {ours[0].arch}")
    return f"{path}{BY_NAME_ENDINGS}"


def require_detector(path: Path, model: nn.Module, what: str) -> None:
    """Check that a file holds the whole detector; arguments and errors are those of :func:`require_start`."""
    require_matching(path, _without_counters(_read(path)), _without_counters(model.state_dict()), what)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is a file that detectron2 does not read; give it the .pth file of the same weights")
    contents, _ = read_tensors(path)
    tensors = contents.get("model", contents)
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(
            f"{path} holds more than tensors by name; expected a backbone.pth or a checkpoint of detectron2"
        )
    return tensors


def _what_differs(what: str, expected: Collection[str], missing: Collection[str], left_over: Collection[str]) -> str:
    if len(missing) == len(expected):
        return (
            f"none of the weights to load is in its place in {what}: detectron2 finds places for the weights of a file "
            f"in torchvision's names, which has to be of that architecture, where {BY_NAME_ENDINGS} follows its name"
        )
    differences = (
        ("missing", [name for name in missing if name not in left_over]),
        ("unexpected", sorted(name for name in left_over if name not in expected)),
        ("of another shape", [name for name in missing if name in left_over]),
    )
    parts = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for label, names in differences
        if names
    ]
    return f"the weights to load are not {what}: {'; '.join(parts)}"


def _part(name: str) -> str:
    return name.partition(".")[0]


def _without_counters(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}
