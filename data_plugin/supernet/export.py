"""A backbone as ONNX."""

from __future__ import annotations

from pathlib import Path

import torch

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed
from data_plugin.utils.files import write_whole


def export_onnx(network: DATAResNet, path: Path, size: tuple[int, int] = (224, 224)) -> None:
    """Write a backbone as ONNX, with inputs ``images`` (N, 3, H, W) of any N, H and W and outputs ``C2`` to ``C5``.

    Args:
        network: the backbone; written as it is in evaluation mode.
        path: the ``.onnx`` file.
        size: height and width at which it is traced.

    Raises:
        UserError: if the package onnx is not installed.
    """
    if not is_installed("onnx"):
        raise UserError("onnx is not installed; install it with: pip install 'data_plugin[export]'")
    taps = [f"C{index + 2}" for index in network.out_indices]
    axes = {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in ("images", *taps)}
    images = torch.zeros(1, network.conv1.in_channels, *size)
    write_whole(
        path,
        lambda temporary: torch.onnx.export(
            network.eval(),
            (images,),
            str(temporary),
            input_names=["images"],
            output_names=taps,
            dynamic_axes=axes,
            dynamo=False,  # the other exporter needs a package more
        ),
    )
