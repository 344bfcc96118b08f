"""What becomes of an image file's pixels, whatever it holds, before a network sees them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """An image upright, in three channels of 8 bits.

    It is turned as its EXIF data say. Of 16 bits the upper 8 are taken, as OpenCV does; Pillow would make nearly all of
    them white. An alpha channel is left out.

    Args:
        image: an opened file.

    Raises:
        ValueError: if its pixels are fractions, of which nobody can say what is white.
    """
    if image.mode == "F":
        raise ValueError("its pixels are fractions; expected whole numbers of 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # I;16 and its kin, or I, in which Pillow opens PGM files of 16 bits
        upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
    return upright.convert("RGB")
