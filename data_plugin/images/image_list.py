"""The image files that a text file names."""

from __future__ import annotations

from pathlib import Path

from data_plugin.images.image_files import ImageFiles
from data_plugin.utils.errors import UserError


class ImageList(ImageFiles):
    """Images named in a text file, one path a line; empty lines are passed over.

    Args:
        path: the text file; a relative path in it is relative to its folder.

    Attributes:
        names: the lines.

    Raises:
        UserError: if the file is not text, names no image, one twice, or one that does not exist.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as a list of images: {error}") from error
        names: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            name = line.strip()
            if name in names:
                raise UserError(f"{path} names {name} twice, in its lines {names[name]} and {number}; remove one")
            if name and not (path.parent / name).is_file():
                raise UserError(f"{path} names {name} in its line {number}, which is no file below {path.parent}")
            if name:
                names[name] = number
        if not names:
            raise UserError(f"{path} names no image; expected one path a line")
        super().__init__(path.parent, list(names))
