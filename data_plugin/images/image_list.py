"""The images that a text file names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from data_plugin.images.image_files import Images
from data_plugin.images.tar_shards import TarShards
from data_plugin.utils.errors import UserError


class NamedImages(Images):
    """Images by their paths: files, and members of tar shards, whose path goes on behind that of their shard.

    Args:
        root: the folder that relative paths are relative to.
        names: the paths.

    Attributes:
        missing: those that lead to no image, which cannot be read.

    Raises:
        UserError: if a shard cannot be read.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        paths = [root / name for name in names]
        elsewhere = {str(path): name for name, path in zip(names, paths, strict=True) if not path.is_file()}
        shards = sorted({shard for path in elsewhere if (shard := _shard_of(Path(path)))})
        self.shards = TarShards(shards) if shards else None
        self.members: dict[str, int] = {}
        if self.shards is not None:
            places = zip(self.shards.places, self.shards.members, strict=True)
            found = (str(shard / member) for (shard, _), member in places)
            self.members = {path: index for index, path in enumerate(found) if path in elsewhere}
        self.missing = [name for path, name in elsewhere.items() if path not in self.members]
        super().__init__(root, names, [self._size(path) for path in paths])

    def read_bytes(self, index: int) -> bytes:
        """See :meth:`Images.read_bytes`."""
        path = self.root / self.names[index]
        member = self.members.get(str(path))
        return path.read_bytes() if self.shards is None or member is None else self.shards.read_bytes(member)

    def file(self, index: int) -> AbstractContextManager[Path]:
        """See :meth:`Images.file`."""
        path = self.root / self.names[index]
        member = self.members.get(str(path))
        return nullcontext(path) if self.shards is None or member is None else self.shards.file(member)

    def _size(self, path: Path) -> int:
        member = self.members.get(str(path))
        if self.shards is not None and member is not None:
            return self.shards.sizes[member]
        return path.stat().st_size if path.is_file() else 0


class ImageList(NamedImages):
    """Images named in a text file, one path a line; empty lines are passed over.

    Args:
        path: the text file; a relative path in it is relative to its folder. ``shards/7.tar/cat.jpg`` is the image
            ``cat.jpg`` of a tar shard.

    Attributes:
        names: the lines.

    Raises:
        UserError: if the file is not text, names no image, one twice, or one that does not exist, or names one of a
            shard that cannot be read.
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
            if name:
                names[name] = number
        if not names:
            raise UserError(f"{path} names no image; expected one path a line")
        super().__init__(path.parent, list(names))
        if self.missing:
            name = self.missing[0]
            raise UserError(f"{path} names {name} in its line {names[name]}, which is no file below {path.parent}")


def _shard_of(path: Path) -> Path | None:
    """The tar file among a path's folders."""
    return next((folder for folder in path.parents if folder.suffix == ".tar" and folder.is_file()), None)
