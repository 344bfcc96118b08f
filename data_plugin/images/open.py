"""Opening unlabelled images, however a path keeps them."""

from __future__ import annotations

from pathlib import Path

from data_plugin.images.image_files import SUFFIXES, Images
from data_plugin.images.image_folder import ImageFolder
from data_plugin.images.image_list import ImageList
from data_plugin.images.tar_shards import TarShards
from data_plugin.utils.errors import UserError


def open_images(path: Path) -> Images:
    """The images that a path stands for.

    Args:
        path: a folder of images, at any depth; a folder of ``.tar`` shards, or one shard; or a ``.txt`` file that
            names an image per line.

    Raises:
        UserError: if it is none of these, or holds no image.
    """
    if path.suffix == ".txt" and path.is_file():
        return ImageList(path)
    if path.is_file() and ".tar" in path.suffixes:
        return TarShards([path])
    if path.is_dir() and (shards := sorted(path.glob("*.tar"))):
        if any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            raise UserError(f"{path} holds both .tar shards and images; expected a folder of one of them")
        return TarShards(shards)
    return ImageFolder(path)
