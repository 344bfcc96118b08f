"""Unlabelled images, wherever they are kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from data_plugin.errors import UserError

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
        """One image in RGB, or None if its file cannot be read or decoded in full."""
        try:
            with Image.open(BytesIO(self.read_bytes(index))) as image:
                return image.convert("RGB")
        # Malformed bytes make Pillow's decoders raise almost anything.
        except Exception:
            return None

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of all images in the order of one epoch."""
        return generator.permutation(len(self))

    def fingerprint(self) -> str:
        """A hash of all names and sizes: the same for the same images, without reading them."""
        digest = hashlib.sha256()
        for name, size in zip(self.names, self.sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode())
        return digest.hexdigest()


def open_images(path: Path) -> Images:
    """The images that a path stands for.

    Args:
        path: a folder of images, at any depth; a folder of ``.tar`` shards, or one shard; or a ``.txt`` file that
            names an image per line.

    Raises:
        UserError: if it is none of these, or holds no image.
    """
    from data_plugin.pretrain.image_folder import ImageFolder
    from data_plugin.pretrain.image_list import ImageList
    from data_plugin.pretrain.tar_shards import TarShards

    if path.suffix == ".txt" and path.is_file():
        return ImageList(path)
    if path.is_file() and ".tar" in path.suffixes:
        return TarShards([path])
    if path.is_dir() and (shards := sorted(path.glob("*.tar"))):
        if any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            raise UserError(f"{path} holds both .tar shards and images; expected a folder of one of them")
        return TarShards(shards)
    return ImageFolder(path)
