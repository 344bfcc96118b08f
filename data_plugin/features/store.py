"""The embedding store: features of any number of images on disk, in shards that are read as they are needed.

A store is a folder. ``store.json`` says what the features are of; ``00000007.npy`` holds those of one shard, a row for
each readable image in the order of the source, and ``00000007.json`` the images' names, hashes of their pixels, and the
names of those that could not be read. The second file is written last: a shard without it is not there yet.
``network.safetensors`` is the network of the features, for other images to be embedded by.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from data_plugin.utils.errors import UserError
from data_plugin.utils.facts_table import facts_table
from data_plugin.utils.files import write_whole

HEADER, NETWORK = "store.json", "network.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class StoreHeader:
    """What a store's features are of.

    Args:
        network: hash of the weights (``sha256``), architecture, tap, and where it comes from.
        preprocessing: what becomes of an image before the network sees it.
        source: where the images are (``path``), the folder that names are relative to (``root``), how many there are
            (``images``) and their ``fingerprint``.
        dim: length of a feature.
        shard_size: images of the source in a shard.
    """

    network: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    source: Mapping[str, Any]
    dim: int
    shard_size: int

    @property
    def shards(self) -> int:
        """How many shards the whole store has."""
        return math.ceil(self.source["images"] / self.shard_size)

    def part(self, shard: int) -> range:
        """Which images of the source are in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.source["images"]))

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StoreHeader:
        """A header that :meth:`to_json` made values of.

        Raises:
            ValueError: if they are of another version.
            KeyError, TypeError, AttributeError: if they are no header's.
        """
        if values["format"] != FORMAT:
            raise ValueError("it is of another version")
        return cls(**{name: value for name, value in values.items() if name != "format"})

    @classmethod
    def read(cls, folder: Path) -> StoreHeader:
        """The header of a store.

        Raises:
            UserError: if the folder holds none of this version.
        """
        path = folder / HEADER
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected the folder of an embedding store that data-embed wrote"
            ) from error

    def difference(self, other: StoreHeader, fields: Sequence[str]) -> str | None:
        """The first entry in which two headers differ, and both values, for people; None if there is none.

        Args:
            other: the other header.
            fields: which fields are compared.
        """
        first, second = self.to_json(), other.to_json()
        for field in fields:
            for name, one, two in _entries(field, first[field], second[field]):
                if one != two:
                    return f"{name} {_short(one)} and {_short(two)}"
        return None


@dataclass(frozen=True)
class Block:
    """One shard of a store.

    Args:
        start: how many images the shards before it hold.
        features: (N, C), float16, of length 1, mapped from disk.
        description: the file of the images' names.
    """

    start: int
    features: np.ndarray
    description: Path

    @property
    def names(self) -> list[str]:
        """The images' names, relative to the source's root."""
        return self._described["names"]

    @property
    def pixels(self) -> list[str]:
        """A hash of each image's pixels."""
        return self._described["pixels"]

    @property
    def unreadable(self) -> list[str]:
        """Names of the images of this part of the source that could not be read."""
        return self._described["unreadable"]

    @cached_property
    def _described(self) -> dict[str, list[str]]:
        return json.loads(self.description.read_text(encoding="utf-8"))


class EmbeddingStore(Sequence[Block]):
    """A whole store as the sequence of its blocks, none of which is in memory.

    Args:
        folder: the store.

    Raises:
        UserError: if it is no store, or an unfinished one, or a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = StoreHeader.read(folder)
        missing = missing_shards(folder, self.header)
        if missing:
            raise UserError(
                f"{folder} is unfinished, {len(missing)} of its {self.header.shards} shards are missing; "
                "finish it with data-embed --resume"
            )
        counts = [len(self._features(shard)) for shard in range(self.header.shards)]
        self.starts = np.cumsum([0, *counts])

    @property
    def images(self) -> int:
        """How many images it holds."""
        return int(self.starts[-1])

    @property
    def root(self) -> Path:
        """The folder that the images' names are relative to."""
        return Path(self.header.source["root"])

    @property
    def unreadable(self) -> list[str]:
        """Names of all images of the source that could not be read."""
        return [name for block in self for name in block.unreadable]

    def __len__(self) -> int:
        """How many blocks it has."""
        return self.header.shards

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        shard = range(len(self))[index]
        return Block(int(self.starts[shard]), self._features(shard), _description(self.folder, shard))

    def features(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The features (N, C) of some images, in single precision, in the order asked for."""
        wanted = np.asarray(indices, dtype=np.int64)
        found = np.empty((len(wanted), self.header.dim), np.float32)
        for block, places, rows in self._places(wanted):
            found[places] = block.features[rows]
        return found

    def paths(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Where some images are, as a list of images names them, in the order asked for."""
        wanted = np.asarray(indices, dtype=np.int64)
        found = [""] * len(wanted)
        for block, places, rows in self._places(wanted):
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                found[place] = str(self.root / block.names[row])
        return found

    def _places(self, wanted: np.ndarray) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
        """For each block that holds some of the images: which of them, and their rows in it."""
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            yield self[shard], places, wanted[places] - self.starts[shard]

    def _features(self, shard: int) -> np.ndarray:
        path = _features_file(self.folder, shard)
        try:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is damaged ({error}); delete it and make it again with data-embed --resume"
            ) from error
        if features.dtype != np.float16 or features.shape[1:] != (self.header.dim,):
            raise UserError(
                f"{path} holds {features.dtype} {features.shape}; expected float16 with {self.header.dim} columns"
            )
        return features

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.folder)!r}: {self.images} images, {self.header.dim} dimensions)"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        network = self.header.network
        return facts_table(
            {
                "store": self.folder,
                "images": f"{self.images:,}",
                "unreadable images": f"{len(self.unreadable):,}",
                "network": f"{network['arch']} of {network['file']}, {network['tap']}",
                "dimensions": self.header.dim,
            }
        )


def make_store(folder: Path, header: StoreHeader, *, resume: bool = False, overwrite: bool = False) -> list[int]:
    """Ready a folder for a store, or go on with the one in it.

    Args:
        folder: the folder; made where missing.
        header: what the features will be of.
        resume: whether the shards that it holds stay.
        overwrite: whether a store in it may be replaced.

    Returns:
        The shards that are missing.

    Raises:
        UserError: if it is a file, holds a store and neither is set, holds other things, or there is nothing to resume
            or a store of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder, or a name that is free")
    held = (folder / HEADER).is_file()
    if resume:
        if not held:
            raise UserError(f"there is nothing to resume: {folder} holds no embedding store; leave out --resume")
        fields = [field.name for field in dataclasses.fields(header)]
        before = StoreHeader.read(folder)
        different = before.difference(header, fields)
        if different:
            raise UserError(
                f"{folder} was begun with something else ({different}); resume with the same images, network and "
                "options, or start again with --overwrite"
            )
    elif held and not overwrite:
        raise UserError(f"{folder} holds an embedding store already; give another folder, or --resume or --overwrite")
    elif not held and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; give a folder that is empty, or a name that is free")
    else:
        _empty(folder)
        text = json.dumps(header.to_json(), indent=1) + "\n"
        write_whole(folder / HEADER, lambda path: path.write_text(text, encoding="utf-8"))
    for unfinished in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        unfinished.unlink(missing_ok=True)
    return missing_shards(folder, header)


def write_shard(
    folder: Path, shard: int, features: np.ndarray, names: list[str], pixels: list[str], unreadable: list[str]
) -> None:
    """Write one shard, whole or not at all.

    Args:
        folder: the store.
        shard: its number.
        features: (N, C), of length 1; kept in half precision.
        names: the images' names.
        pixels: hashes of their pixels.
        unreadable: names of images that could not be read.
    """

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, features.astype(np.float16))

    write_whole(_features_file(folder, shard), save)
    text = json.dumps({"names": names, "pixels": pixels, "unreadable": unreadable}) + "\n"
    write_whole(_description(folder, shard), lambda path: path.write_text(text, encoding="utf-8"))


def missing_shards(folder: Path, header: StoreHeader) -> list[int]:
    """The shards that a store does not have yet, or not whole."""
    there = {path.name for path in folder.iterdir()}
    both = (_description, _features_file)
    return [shard for shard in range(header.shards) if not {file(folder, shard).name for file in both} <= there]


def _features_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:08d}.npy"


def _description(folder: Path, shard: int) -> Path:
    return folder / f"{shard:08d}.json"


def _empty(folder: Path) -> None:
    """Take away a store's files, and nothing else."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name in (HEADER, NETWORK) or (path.stem.isdecimal() and path.suffix in (".npy", ".json")):
                path.unlink()


def _entries(name: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    """What two values hold under the same names."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in {**first, **second}:
            yield from _entries(f"{name}.{key}", first.get(key), second.get(key))
    else:
        yield name, first, second


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
