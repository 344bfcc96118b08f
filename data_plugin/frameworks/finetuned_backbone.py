"""Taking the backbone back out of a model that was fine-tuned with any of the frameworks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.pretrained import Pretrained
from data_plugin.frameworks.registry import FRAMEWORKS
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed
from data_plugin.utils.tensor_files import read_tensors

PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
"""First parts of the names of a ResNet's weights in torchvision."""

PLACES = ("", *dict.fromkeys(place for framework in FRAMEWORKS for place in framework.backbone_places))
"""Where models of any framework, or nothing but a backbone, keep its weights; see :class:`Framework`."""


def load_finetuned_backbone(checkpoint: Path) -> DATAResNet:
    """The backbone of a model fine-tuned with any of the frameworks, stage 4 of a C4 detector's RoI head included.

    Args:
        checkpoint: a checkpoint of MMEngine (``state_dict``) or detectron2 (``model``), or such weights alone.

    Returns:
        The network, in evaluation mode. Its architecture is read from the weights; they do not say whether a model
        had the stride in the 1x1 convolutions, which :class:`DATAResNet` never has.

    Raises:
        UserError: if the file cannot be read or does not hold a whole bottleneck ResNet with batch norm.
    """
    weights = backbone_weights(_read(checkpoint))
    network = DATAResNet(_arch(weights, checkpoint))
    Pretrained(checkpoint, network.arch, weights).load_into(network)
    return network.eval()


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's entries of a model's state dict, in torchvision's names.

    Args:
        state: weights by name.
    """
    found = {}
    for place in PLACES:
        for name, value in state.items():
            rest = name.removeprefix(place)
            part, _, entry = rest.partition(".")
            if name.startswith(place) and part in PARTS and _is_entry(part, entry):
                found[rest] = value
    return found


def _read(checkpoint: Path) -> Mapping[str, Any]:
    if is_installed("mmengine") and checkpoint.suffix != ".safetensors":
        contents = importlib.import_module("data_plugin.backbones.openmmlab.checkpoint").read_state_dict(checkpoint)
    else:
        contents = read_tensors(checkpoint)[0]
    for key in ("state_dict", "model"):
        contents = contents.get(key, contents)
    return {name: value for name, value in contents.items() if isinstance(value, Tensor)}


def _is_entry(part: str, entry: str) -> bool:
    """Whether a name goes on as a ResNet's does: a block's number in a layer, a parameter otherwise."""
    first = entry.split(".")[0]
    return first.isdecimal() if part.startswith("layer") else first != "" and not first.isdecimal()


def _arch(weights: Mapping[str, Tensor], checkpoint: Path) -> Arch:
    try:
        return Arch.from_weights(weights)
    except KeyError as error:
        raise UserError(
            f"{checkpoint} holds no whole backbone ({error.args[0]} is missing); expected a fine-tuned "
            f"model with a ResNet's names behind one of {', '.join(place or 'no prefix' for place in PLACES)}"
        ) from error
