"""The weights of one network on disk, read back with the architecture that they have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_finite, require_matching

ARCH_FILE, SAFETENSORS_FILE, PTH_FILE = "arch.json", "backbone.safetensors", "backbone.pth"
"""The files of a network in the folder of a winner, or of what was exported."""

_COUNTER = "num_batches_tracked"
"""Frozen norms have none, and nothing here computes with it."""

_EXPECTED = "expected weights in torchvision's names, as data-export takes them out of a model's checkpoint"


@dataclass(frozen=True)
class Pretrained:
    """One network's weights.

    Args:
        path: the file that they come from.
        arch: its architecture.
        weights: tensors by torchvision's names, all of them finite.
    """

    path: Path
    arch: Arch
    weights: Mapping[str, Tensor]

    def load_into(self, network: nn.Module, left_out: Collection[str] = ()) -> None:
        """Give a network the weights, all of which it has to have.

        Args:
            network: gets them.
            left_out: first parts of names, such as ``layer4``, that the network does without.

        Raises:
            UserError: naming the first weights that are missing, left over or of another shape.
        """
        found = {name: value for name, value in self.weights.items() if name.split(".")[0] not in left_out}
        expected = network.state_dict()
        what = f"the weights of {self.arch}"
        require_matching(self.path, _without_counters(found), _without_counters(expected), what)
        network.load_state_dict({name: value for name, value in found.items() if name in expected}, strict=False)


def read_pretrained(source: Path) -> Pretrained:
    """Read one network's weights; the file's header or ``arch.json`` beside it may say what they are.

    Args:
        source: a folder with ``backbone.safetensors`` or ``backbone.pth``, or a file of weights.

    Raises:
        UserError: if there are no weights, they cannot be read safely, are not finite or no bottleneck ResNet's.
    """
    path = _file(source) if source.is_dir() else source
    weights, header = read_tensors(path)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise UserError(f"{path} holds more than tensors by name; {_EXPECTED}")
    require_finite(path, weights)
    return Pretrained(path, _arch(path, weights, header), weights)


def _file(folder: Path) -> Path:
    for name in (SAFETENSORS_FILE, PTH_FILE):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has neither {SAFETENSORS_FILE} nor {PTH_FILE}; expected the folder of a searched or exported network"
    )


def _arch(path: Path, weights: Mapping[str, Tensor], header: Mapping[str, str]) -> Arch:
    beside = path.with_name(ARCH_FILE)
    if beside.is_file():
        try:
            return Arch.parse(beside.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{beside} is not text; expected an architecture") from error
    if "arch" in header:
        return Arch.parse(header["arch"])
    try:
        return Arch.from_weights(weights)
    except KeyError as error:
        raise UserError(f"{path} holds no whole bottleneck ResNet ({error.args[0]} is missing); {_EXPECTED}") from error


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}
