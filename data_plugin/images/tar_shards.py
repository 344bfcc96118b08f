"""Images in tar files of many each, for stores that do not like a million small files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np

from data_plugin.images.image_files import SUFFIXES, Images
from data_plugin.utils.errors import UserError

WINDOW = 2_048
"""Neighbouring images that are shuffled among each other."""


class TarShards(Images):
    """The images of tar shards, as WebDataset writes them; whatever else is in a shard is passed over.

    The shards' tables of contents are read once, at the start. Then an epoch goes through the shards in random order
    and through each from front to back, shuffled within a window of :data:`WINDOW` images: reads move forward through
    one file at a time. As with every shuffle buffer, images that are neighbours in a shard stay near each other, so
    write shards in random order.

    Args:
        shards: uncompressed tar files.

    Attributes:
        names: ``shard/member`` each.
        members: the members alone.

    Raises:
        UserError: if a shard cannot be read or is compressed, or there is no image in any.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        names: list[str] = []
        sizes: list[int] = []
        self.members: list[str] = []
        self.places: list[tuple[Path, int]] = []
        self.lengths: list[int] = []
        for shard in shards:
            members = _images_of(shard)
            names += [f"{shard.name}/{member.name}" for member in members]
            self.members += [PurePosixPath(member.name).as_posix() for member in members]
            sizes += [member.size for member in members]
            self.places += [(shard, member.offset_data) for member in members]
            self.lengths.append(len(members))
        if not names:
            raise UserError(
                f"{shards[0].parent} holds shards without an image; expected some that end in {', '.join(SUFFIXES)}"
            )
        super().__init__(shards[0].parent, names, sizes)
        self._open: tuple[Path, int] | None = None

    @property
    def keys(self) -> Sequence[str]:
        """See :attr:`Images.keys`: the members' names, unless two shards have one in common."""
        return self.members if len(set(self.members)) == len(self.members) else self.names

    @contextmanager
    def file(self, index: int) -> Iterator[Path]:
        """See :meth:`Images.file`: a copy, which what is raised about it does not name."""
        with TemporaryDirectory() as folder:
            copy = Path(folder, Path(self.members[index]).name)
            copy.write_bytes(self.read_bytes(index))
            try:
                yield copy
            except UserError as error:
                member = self.places[index][0].parent / self.names[index]
                raise UserError(str(error).replace(str(copy), str(member))) from error

    def read_bytes(self, index: int) -> bytes:
        """See :meth:`Images.read_bytes`."""
        shard, offset = self.places[index]
        if self._open is None or self._open[0] != shard:
            if self._open is not None:
                os.close(self._open[1])
            self._open = shard, os.open(shard, os.O_RDONLY)
        # Reading at a position leaves the file's own alone, which forked processes share.
        return os.pread(self._open[1], self.sizes[index], offset)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of all images in the order of one epoch, those of a shard close together."""
        starts = np.cumsum([0, *self.lengths])
        shards = generator.permutation(len(self.lengths))
        order = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
        for first in range(0, len(order), WINDOW):
            generator.shuffle(order[first : first + WINDOW])
        return order


def _images_of(shard: Path) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as tar:
            return [member for member in tar if member.isfile() and member.name.lower().endswith(SUFFIXES)]
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{shard} cannot be read as a shard ({error}); expected a whole tar file without compression"
        ) from error
