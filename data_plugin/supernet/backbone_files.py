"""A backbone on disk: its architecture and its weights, in the names that every ResNet reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.tensor_files import read_tensors, require_matching

ARCH_FILE, SAFETENSORS_FILE, PTH_FILE = "arch.json", "backbone.safetensors", "backbone.pth"


def save_backbone(folder: Path, network: DATAResNet) -> None:
    """Write ``arch.json``, ``backbone.safetensors`` and ``backbone.pth`` (torchvision's names, a flat dictionary)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    header = {"format": "pt", "arch": str(network.arch)}
    write_whole(folder / SAFETENSORS_FILE, lambda path: save_file(weights, path, metadata=header))
    write_whole(folder / PTH_FILE, lambda path: torch.save(weights, path))
    text = json.dumps(network.arch.to_json()) + "\n"
    write_whole(folder / ARCH_FILE, lambda path: path.write_text(text))


def load_backbone(folder: Path) -> DATAResNet:
    """The network that :func:`save_backbone` wrote, in evaluation mode.

    Raises:
        UserError: if a file is missing or damaged, or the weights are not those of the architecture.
    """
    description = folder / ARCH_FILE
    if not description.is_file():
        raise UserError(f"{description} is missing; expected the folder of a searched network")
    network = DATAResNet(Arch.parse(description.read_text()))
    weights, _ = read_tensors(folder / SAFETENSORS_FILE)
    require_matching(folder / SAFETENSORS_FILE, weights, network.state_dict(), f"the weights of {network.arch}")
    network.load_state_dict(weights)
    return network.eval()
