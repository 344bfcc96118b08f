"""Files in COCO's format, read before a framework reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_plugin.utils.errors import UserError

LISTS = ("images", "annotations", "categories")
"""What a file lists."""

Lists = dict[str, list[dict[str, Any]]]
"""The entries of each list, by its name."""


def read_coco(file: Path, lists: Sequence[str] = LISTS) -> Lists:
    """The lists of a file.

    Args:
        file: the file.
        lists: those that it has to hold.

    Raises:
        UserError: if it cannot be read, or one of the lists is not there.
    """
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        found = {key: contents[key] for key in lists}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} cannot be read as COCO annotations ({type(error).__name__}: {error})") from error
    for key, each in found.items():
        if not (isinstance(each, list) and all(isinstance(entry, dict) for entry in each)):
            raise UserError(f"{file} cannot be read as COCO annotations: its {key} are no list of JSON objects")
    return found


def listed_images(file: Path) -> list[str]:
    """The names of the images that a file lists; labels are needed for none.

    Raises:
        UserError: see :func:`read_coco` and :func:`image_names`.
    """
    return image_names(file, read_coco(file, LISTS[:1])["images"])


def image_names(file: Path, images: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of images.

    Args:
        file: the file, for the message.
        images: its list of images.

    Raises:
        UserError: if one has no name or no id.
    """
    for image in images:
        if "id" not in image or not isinstance(image.get("file_name"), str):
            raise UserError(f"{file} lists the image {dict(image)}; expected an id and a file_name in each")
    return [image["file_name"] for image in images]
