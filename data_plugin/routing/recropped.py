"""A task's images as the network sees them that divided the data of the pre-training."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize, to_pil_image

from data_plugin.features.embedder import Embedder
from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.images.input_format import InputFormat


class RecroppedImages(ImageSource):
    """Images that a framework has loaded, cut and normalised as those of an embedding store.

    What the framework did to an image before, such as scaling it up, stays done.

    Args:
        source: the images, as the framework's model sees them.
        input_format: theirs.
        embedder: the network of the store.
    """

    def __init__(self, source: ImageSource, input_format: InputFormat, embedder: Embedder) -> None:
        super().__init__(source.names, source.workers)
        self._source = source
        self._from = input_format
        self._to = InputFormat.from_json(embedder.preprocessing["input_format"])
        self._resize, self._crop = embedder.preprocessing["resize"], embedder.preprocessing["centre_crop"]

    def __getitem__(self, index: int) -> LoadedImage:
        loaded = self._source[index]
        height, width = loaded.size
        image = grey_levels(loaded.pixels[:, :height, :width], self._from)
        image = center_crop(resize(image, [self._resize], antialias=True), [self._crop])
        return LoadedImage(_normalised(image, self._to), (self._crop, self._crop))


def grey_levels(pixels: Tensor, input_format: InputFormat) -> Tensor:
    """An image (3, H, W) in a format as RGB from 0 to 255."""
    mean, std = _columns(input_format)
    image = pixels * std + mean
    return image.flip(0) if input_format.channel_order == "BGR" else image


def shown(pixels: Tensor, input_format: InputFormat) -> Image.Image:
    """An image (3, H, W) in a format as one to look at."""
    return to_pil_image(grey_levels(pixels, input_format).round().clamp(0, 255).to(torch.uint8))


def _normalised(image: Tensor, input_format: InputFormat) -> Tensor:
    mean, std = _columns(input_format)
    return ((image.flip(0) if input_format.channel_order == "BGR" else image) - mean) / std


def _columns(input_format: InputFormat) -> tuple[Tensor, Tensor]:
    return torch.tensor(input_format.mean).view(3, 1, 1), torch.tensor(input_format.std).view(3, 1, 1)
