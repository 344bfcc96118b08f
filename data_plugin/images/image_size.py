"""The size of an image file, from its header alone."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from data_plugin.utils.errors import UserError

_TURNED = (5, 6, 7, 8)
"""EXIF orientations whose images are shown turned by a quarter, as all frameworks read them."""

_ORIENTATION = 0x112


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image as it is shown.

    Args:
        path: the image's file.

    Raises:
        UserError: if it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow decodes all of a PNG to look for EXIF behind its pixels, where hardly any has it.
            has_exif = image.format != "PNG" or "exif" in image.info
            turned = has_exif and image.getexif().get(_ORIENTATION) in _TURNED
            return (height, width) if turned else (width, height)
    except Exception as error:  # malformed bytes make Pillow's decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}); replace or remove it") from error
