"""Image files as a search reads them: decoded anew whenever they are iterated over, resized, and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_plugin.images.batch import ImageBatches, ImageSource, LoadedImage
from data_plugin.images.input_format import InputFormat


class ImageFiles(ImageSource):
    """Square images from files.

    Args:
        files: the files.
        size: their size afterwards, in pixels.
    """

    def __init__(self, files: Sequence[Path | str], size: int) -> None:
        super().__init__([Path(file).name for file in files])
        self.files = files
        self.size = size

    def __getitem__(self, index: int) -> LoadedImage:
        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((self.size, self.size)))
        form = InputFormat.imagenet()
        normalised = (pixels - np.array(form.mean)) / np.array(form.std)
        return LoadedImage(torch.from_numpy(normalised).permute(2, 0, 1).float(), (self.size, self.size))

    def batches(self, batch_size: int) -> ImageBatches:
        """All images in the order of the files."""
        starts = range(0, len(self), batch_size)
        return ImageBatches(self, [list(range(start, min(start + batch_size, len(self)))) for start in starts])
