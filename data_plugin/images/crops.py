"""An image file made the input of a network: cut to a square, and normalised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from data_plugin.images.input_format import InputFormat
from data_plugin.utils.errors import UserError

Transform = Callable[[Image.Image], Tensor]
"""Makes the input of a network, (3, size, size), of an image."""


def centre_crop(size: int, input_format: InputFormat) -> Transform:
    """Resize the shorter side to 256/224 of ``size`` and cut out the centre, as the 1-crop protocol of ImageNet.

    Args:
        size: height and width of the result.
        input_format: channel order and normalisation.

    Raises:
        UserError: if the size is below 1.
    """
    if size < 1:
        raise UserError(f"the image size is {size}; expected a number of pixels above 0")
    return v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), *_normalised(input_format)])


def random_crop(size: int, input_format: InputFormat) -> Transform:
    """Cut out 8 to 100 % of the area at random, resize it to ``size``, and mirror half of the images.

    Args:
        size: height and width of the result.
        input_format: channel order and normalisation.
    """
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *_normalised(input_format)])


def _normalised(input_format: InputFormat) -> list[v2.Transform]:
    """From an image in RGB to numbers in the format."""
    order: list[v2.Transform] = [v2.Lambda(_reversed_channels)] if input_format.channel_order == "BGR" else []
    return [
        v2.PILToTensor(),
        *order,
        v2.ToDtype(torch.float32),
        v2.Normalize(mean=list(input_format.mean), std=list(input_format.std)),
    ]


def _reversed_channels(image: Tensor) -> Tensor:
    return image.flip(0)
