"""Unlabelled images: every image file below a folder, whatever its sub-folders mean."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image

from data_plugin.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files, in small letters."""


class ImageFolder:
    """The images below a folder, sorted by their path relative to it; hidden files are left out.

    Args:
        root: the folder.

    Attributes:
        names: paths relative to ``root``, with forward slashes.

    Raises:
        UserError: if there is no such folder, or no image file in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; expected one that holds images")
        self.root = root
        self.names = sorted(
            (Path(folder) / file).relative_to(root).as_posix()
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        )
        if not self.names:
            raise UserError(f"{root} holds no image file; expected some that end in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image | None:
        """One image in RGB, or None if its file cannot be read or decoded in full."""
        try:
            with Image.open(self.root / self.names[index]) as image:
                return image.convert("RGB")
        # Malformed bytes make Pillow's decoders raise almost anything.
        except Exception:
            return None

    def fingerprint(self) -> str:
        """A hash of all names and file sizes: the same for the same images, without reading them."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\n".encode())
        return digest.hexdigest()
