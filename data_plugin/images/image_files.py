"""Unlabelled images, wherever they are kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from data_plugin.images.rgb import to_rgb

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files, in small letters."""


class Images(ABC):
    """Images that are read one by one.

    Args:
        names: what messages call them, one for each.
        sizes: their sizes in bytes.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        self.names = names
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """The contents of one image file."""

    def read(self, index: int) -> Image.Image | None:
        """One image as :func:`to_rgb` makes it, or None if its file cannot be read or decoded in full."""
        try:
            with Image.open(BytesIO(self.read_bytes(index))) as image:
                return to_rgb(image)
        # Malformed bytes make Pillow's decoders raise almost anything.
        except Exception:
            return None

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files of the images, one for each.

        Raises:
            UserError: if they are not in files of their own.
        """

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of all images in the order of one epoch."""
        return generator.permutation(len(self))

    def fingerprint(self) -> str:
        """A hash of all names and sizes: the same for the same images, without reading them."""
        digest = hashlib.sha256()
        for name, size in zip(self.names, self.sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode())
        return digest.hexdigest()
