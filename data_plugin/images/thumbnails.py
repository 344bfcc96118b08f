"""Small pictures of images, inside of a page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from data_plugin.images.image_list import NamedImages

PIXELS = 96
"""The longer side of a picture."""


@dataclass(frozen=True)
class Thumbnail:
    """One image. A template shows it as it is; of one that cannot be read any more, an element of the class ``gone``.

    Args:
        name: what it is called.
        data: its pixels as a ``data:`` address; None if it cannot be read any more.
    """

    name: str
    data: str | None

    def __html__(self) -> str:
        if self.data is None:
            return Markup('<span class="gone" title="{}"></span>').format(self.name)
        return Markup('<img src="{}" title="{}" alt="">').format(self.data, self.name)


def thumbnails(paths: Iterable[str]) -> dict[str, Thumbnail]:
    """The pictures of images, by their paths.

    Args:
        paths: as a list of images names them, see :class:`~data_plugin.images.image_list.ImageList`.
    """
    images = NamedImages(Path(), sorted(set(paths)))
    return {path: thumbnail(path, images.read(index)) for index, path in enumerate(images.names)}


def thumbnail(name: str, image: Image.Image | None) -> Thumbnail:
    """The picture of one image.

    Args:
        name: what it is called.
        image: the image; None if it cannot be read.
    """
    return Thumbnail(name, None if image is None else _data(image))


def _data(image: Image.Image) -> str:
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
