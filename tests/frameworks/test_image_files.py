"""Image files as people have them: what each framework makes of them is the image, or they are named."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_plugin import UserError
from data_plugin.images.image_folder import ImageFolder

HEIGHT, WIDTH = 64, 96
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
PIXELS = np.stack([COLUMNS * 255 // WIDTH, ROWS * 255 // HEIGHT, np.where(ROWS < HEIGHT // 2, 220, 30)], -1)
PHOTOGRAPH = Image.fromarray(PIXELS.astype(np.uint8))
"""No two of its corners are alike, and its channels are not either."""

GREY = np.asarray(PHOTOGRAPH.convert("L"))


def sixteen_bits(path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)


def colours_of_sixteen_bits(path: Path) -> None:
    cv2.imwrite(str(path), PIXELS[..., ::-1].astype(np.uint16) * 257)


def half_transparent(path: Path) -> None:
    image = PHOTOGRAPH.copy()
    image.putalpha(128)
    image.save(path)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by a quarter to the right
    PHOTOGRAPH.rotate(90, expand=True).save(path, quality=95, exif=exif)


FILES: dict[str, Callable[[Path], None]] = {
    "photograph.png": PHOTOGRAPH.save,
    "with spaces and ü 図.png": PHOTOGRAPH.save,
    "LARGE.JPG": lambda path: PHOTOGRAPH.save(path, quality=95),
    "cmyk.jpg": lambda path: PHOTOGRAPH.convert("CMYK").save(path, quality=95),
    "palette.png": lambda path: PHOTOGRAPH.quantize(256).save(path),
    "half transparent.png": half_transparent,
    "turned.jpg": turned,
    "colours of 16 bits.png": colours_of_sixteen_bits,
    "page.tif": PHOTOGRAPH.save,
    "small.webp": lambda path: PHOTOGRAPH.save(path, lossless=True),
    "grey.jpg": lambda path: PHOTOGRAPH.convert("L").save(path, quality=95),
    "grey of 16 bits.png": sixteen_bits,
}
CLOSE = 4.0
"""How far pixels may be on average, of 255, by compression and the conversion of colours."""


def is_photograph(pixels: np.ndarray, name: str) -> bool:
    expected = np.asarray(PHOTOGRAPH.convert("L" if name.startswith("grey") else "RGB").convert("RGB"), dtype=float)
    return pixels.shape == expected.shape and np.abs(pixels - expected).mean() < CLOSE


@pytest.mark.parametrize("name", FILES)
def test_a_framework_sees_the_image_or_it_is_named(example, tmp_path: Path, name: str):
    FILES[name](tmp_path / name)
    config = example.open()
    images = config.images_of(ImageFolder(tmp_path))
    if example.framework.name == "detectron2" and name == "grey of 16 bits.png":
        with pytest.raises(UserError, match=r"grey of 16 bits.png has more than 8 bits a pixel .* convert it"):
            images[0]
        return
    image, form = images[0], config.input_format
    height, width = image.size
    pixels = image.pixels[:, :height, :width].permute(1, 2, 0).numpy() * np.array(form.std) + np.array(form.mean)
    assert is_photograph(pixels if form.channel_order == "RGB" else pixels[..., ::-1], name)


@pytest.mark.parametrize("name", FILES)
def test_pre_training_sees_the_image(tmp_path: Path, name: str):
    FILES[name](tmp_path / name)
    image = ImageFolder(tmp_path).read(0)
    assert image is not None
    assert is_photograph(np.asarray(image, dtype=float), name)
