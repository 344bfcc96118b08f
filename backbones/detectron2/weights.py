"""Loading a backbone file in torchvision's names into a detector, through whatever loads the detector.

``MODEL.WEIGHTS`` may name ``backbone.pth`` as it is: every model that a :class:`TorchvisionNamed` part is built into
recognises such a file when it is asked to load one, and refuses it unless it matches. Checkpoints of whole detectors
pass untouched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_matching

_COUNTER = "num_batches_tracked"
"""Files may lack it and frozen norms have none; nothing here computes with it."""


class TorchvisionNamed(ABC):
    """Mixin of a module whose weights come from a file in torchvision's names."""

    arch: Arch

    @abstractmethod
    def file_name(self, name: str) -> str | None:
        """What a torchvision file calls the module's entry ``name``; None if no such file has it."""


def require_start(path: Path, model: nn.Module, what: str) -> None:
    """Check that a detector can start training from a file: from its backbone, or from the whole detector.

    Args:
        path: a backbone in torchvision's names, or a detector as detectron2 saves it.
        model: the detector.
        what: the detector, for the message.

    Raises:
        UserError: if detectron2 cannot read the file or it holds neither; the message lists what did not match.
    """
    tensors, names = _read(path), _torchvision_names(model)
    if _is_backbone(tensors, names):
        _require_backbone(path, tensors, model, names)
    else:
        require_matching(path, _without_counters(tensors), _without_counters(model.state_dict()), what)


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


def _rename(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Give the entries of a backbone file the names that ``model`` has for them, before it loads them."""
    names = _torchvision_names(model)
    if prefix or not _is_backbone(state_dict, names):
        return
    _require_backbone(Path("MODEL.WEIGHTS"), state_dict, model, names)
    taken = {file: state_dict.pop(file) for file in set(names.values()) if file in state_dict}
    state_dict.update({own: taken[file] for own, file in names.items() if file in taken})


def _torchvision_names(model: nn.Module) -> dict[str, str]:
    """For every entry of a model that a backbone file has, the name there."""
    names = {}
    for prefix, module in model.named_modules():
        if isinstance(module, TorchvisionNamed):
            assert isinstance(module, nn.Module)
            for name in module.state_dict():
                file = module.file_name(name)
                if file is not None:
                    names[f"{prefix}.{name}" if prefix else name] = file
    return names


def _is_backbone(tensors: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    return not any(own in tensors for own in names) and any(file in tensors for file in names.values())


def _require_backbone(path: Path, tensors: Mapping[str, Tensor], model: nn.Module, names: Mapping[str, str]) -> None:
    state = model.state_dict()
    expected = {file: state[own] for own, file in names.items()}
    # A stage that the model does not have, or the classifier, is left over; detectron2 logs that.
    parts = {file.split(".")[0] for file in expected}
    found = {name: value for name, value in tensors.items() if name.split(".")[0] in parts}
    arch = next(module.arch for module in model.modules() if isinstance(module, TorchvisionNamed))
    require_matching(path, _without_counters(found), _without_counters(expected), f"the backbone {arch}")


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}


def _watch(parent: nn.Module, _: str, child: nn.Module | None) -> None:
    """Let every module that one of ours is built into read backbone files.

    A module being loaded hands its children only what bears their prefix, so the whole detector has to do the
    renaming, and detectron2 offers no place to tell it: it is told when it takes one of our modules in.
    """
    is_ours = isinstance(child, TorchvisionNamed) or getattr(child, _MARK, False)
    if is_ours and not getattr(parent, _MARK, False):
        parent.register_load_state_dict_pre_hook(_rename)
        setattr(parent, _MARK, True)


_MARK = "_reads_torchvision_names"
register_module_module_registration_hook(_watch)
