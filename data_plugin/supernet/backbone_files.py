"""A backbone on disk: its architecture and its weights, in the names that every ResNet reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.pretrained import ARCH_FILE, PTH_FILE, SAFETENSORS_FILE
from data_plugin.utils.files import write_whole


def save_backbone(folder: Path, network: DATAResNet) -> None:
    """Write ``arch.json``, ``backbone.safetensors`` and ``backbone.pth`` (torchvision's names, a flat dictionary)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    header = {"format": "pt", "arch": str(network.arch)}
    write_whole(folder / SAFETENSORS_FILE, lambda path: save_file(weights, path, metadata=header))
    write_whole(folder / PTH_FILE, lambda path: torch.save(weights, path))
    text = json.dumps(network.arch.to_json()) + "\n"
    write_whole(folder / ARCH_FILE, lambda path: path.write_text(text))
