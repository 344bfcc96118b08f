"""A backbone in the forms that run without this project: ONNX and TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.utils.extras import require_installed
from data_plugin.utils.files import write_whole


def export_onnx(network: DATAResNet, path: Path) -> None:
    """Write a backbone as ONNX, with inputs ``images`` (N, 3, H, W) of any N, H and W and outputs ``C2`` to ``C5``.

    Args:
        network: the backbone; written as it is in evaluation mode, which it is left in.
        path: the ``.onnx`` file, weights included.

    Raises:
        UserError: if a package that writes ONNX is not installed.
    """
    require_installed(("onnx", "onnxscript"), extra="export")
    images = network.conv1.weight.new_zeros(2, network.conv1.in_channels, 64, 96)
    any_size = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch's, of itself
        program = torch.onnx.export(
            network.eval(),
            (images,),
            input_names=["images"],
            output_names=[f"C{index + 2}" for index in network.out_indices],
            dynamic_shapes=(any_size,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    write_whole(path, program.save)


def export_torchscript(network: DATAResNet, path: Path) -> None:
    """Write a backbone as TorchScript, which maps images (N, 3, H, W) to a tuple of its feature maps.

    Args:
        network: the backbone; written as it is in evaluation mode, which it is left in.
        path: the file, which ``torch.jit.load`` reads in Python and C++.
    """
    scripted = torch.jit.script(network.eval())
    write_whole(path, lambda temporary: _save(scripted, temporary))


def _save(scripted: torch.jit.ScriptModule, path: Path) -> None:
    # Given a path, torch writes its name into the file.
    with path.open("wb") as file:
        torch.jit.save(scripted, file)
