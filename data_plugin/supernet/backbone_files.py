"""A backbone on disk: its architecture and its weights, in the names that every ResNet reader knows."""

from __future__ import annotations

import json
from pathlib import Path

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.pretrained import ARCH_FILE, PTH_FILE, SAFETENSORS_FILE
from data_plugin.utils.files import write_whole
from data_plugin.utils.tensor_files import write_pth, write_safetensors


def save_backbone(folder: Path, network: DATAResNet) -> None:
    """Write ``arch.json``, ``backbone.safetensors`` and ``backbone.pth`` (torchvision's names, a flat dictionary)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    header = {"format": "pt", "arch": str(network.arch)}
    write_safetensors(folder / SAFETENSORS_FILE, weights, header)
    write_pth(folder / PTH_FILE, weights)
    text = json.dumps(network.arch.to_json()) + "\n"
    write_whole(folder / ARCH_FILE, lambda path: path.write_text(text))
