"""Unlabelled images, wherever they are kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
        root: the folder that their names are relative to.
        names: what messages call them, one for each; ``root / name`` is what a list of images calls them, see
            :class:`~data_plugin.images.image_list.ImageList`.
        sizes: their sizes in bytes.
    """

    def __init__(self, root: Path, names: Sequence[str], sizes: Sequence[int]) -> None:
        self.root = root
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
    def keys(self) -> Sequence[str]:
        """What a search draws them by and calls them: the same for the same images, however they are kept."""
        return self.names

    @abstractmethod
    def file(self, index: int) -> AbstractContextManager[Path]:
        """A file of one image, for those who read nothing else; it may be gone at the end of the ``with``."""

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of all images in the order of one epoch."""
        return generator.permutation(len(self))

    def fingerprint(self) -> str:
        """A hash of all names and sizes: the same for the same images, without reading them."""
        digest = hashlib.sha256()
        for name, size in zip(self.names, self.sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode())
        return digest.hexdigest()


class ImageFiles(Images):
    """Images in files of their own.

    Args:
        root: the folder that their names are relative to.
        names: their names.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        super().__init__(root, names, [(root / name).stat().st_size for name in names])

    @property
    def files(self) -> list[Path]:
        """Their paths."""
        return [self.root / name for name in self.names]

    def read_bytes(self, index: int) -> bytes:
        """See :meth:`Images.read_bytes`."""
        return (self.root / self.names[index]).read_bytes()

    @contextmanager
    def file(self, index: int) -> Iterator[Path]:
        """See :meth:`Images.file`."""
        yield self.root / self.names[index]
