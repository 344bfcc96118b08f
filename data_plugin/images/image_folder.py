"""Every image file below a folder, whatever its sub-folders mean."""

from __future__ import annotations

import os
from pathlib import Path

from data_plugin.images.image_files import SUFFIXES, ImageFiles
from data_plugin.utils.errors import UserError


class ImageFolder(ImageFiles):
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
        names = sorted(
            (Path(folder) / file).relative_to(root).as_posix()
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        )
        if not names:
            raise UserError(f"{root} holds no image file; expected some that end in {', '.join(SUFFIXES)}")
        super().__init__(root, names)
