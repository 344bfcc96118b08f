"""Codes: which part of a balanced tree of clusters each image of an embedding store is in.

Codes are a folder. ``digits.npy`` holds a row for each image, its way down the tree; ``names.json`` the images' names;
``centroids.safetensors`` the centroids of all parts; ``network.safetensors`` the network of the features, as the store
has it; ``codes.html`` what they look like. ``codes.json``, which says what the codes are of, is written last: a folder
without it holds none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from data_plugin.features.store import NETWORK, StoreHeader
from data_plugin.images.image_files import Images
from data_plugin.utils.errors import UserError
from data_plugin.utils.facts_table import facts_table
from data_plugin.utils.files import write_whole
from data_plugin.utils.tensor_files import read_tensors

HEADER, DIGITS, NAMES, CENTROIDS, PAGE = "codes.json", "digits.npy", "names.json", "centroids.safetensors", "codes.html"
FORMAT = 1

MOST_CHILDREN = 255
"""What a digit can tell apart, and still be a byte."""


@dataclass(frozen=True)
class CodesHeader:
    """What codes are of, and what came of it.

    Args:
        levels: digits of a code.
        children: parts that every part is split into.
        seed: of everything random.
        random: whether the images were dealt at random, as a control.
        images: how many images have a code.
        sizes: images in each leaf, in the order of the codes.
        cohesion: by level, the mean similarity of an image to the centroid of its part.
        random_cohesion: the same of random parts of the same sizes.
        fingerprint: of digits and names, see :func:`fingerprint_of`.
        store: the header of the embedding store: network, preprocessing, and the source of the images.
    """

    levels: int
    children: int
    seed: int
    random: bool
    images: int
    sizes: tuple[int, ...]
    cohesion: tuple[float, ...]
    random_cohesion: tuple[float, ...]
    fingerprint: str
    store: StoreHeader

    @property
    def leaves(self) -> int:
        """How many parts there are at the last level."""
        return self.children**self.levels

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"format": FORMAT, **dataclasses.asdict(self), "store": self.store.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CodesHeader:
        """A header that :meth:`to_json` made values of.

        Raises:
            ValueError: if they are of another version.
            KeyError, TypeError, AttributeError: if they are no header's.
        """
        if values["format"] != FORMAT:
            raise ValueError("it is of another version")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name != "format"
        }
        fields["store"] = StoreHeader.from_json(values["store"])
        return cls(**fields)


@dataclass(frozen=True)
class Codes:
    """The codes of images.

    Args:
        folder: where they are kept.
        header: what they are of.
        digits: (N, levels), uint8; the coarsest part first, an image per row.
        names: the images' names, relative to the source's root, in the same order.
        unreadable: names of images of the source that have no code, since they could not be read.
    """

    folder: Path
    header: CodesHeader
    digits: np.ndarray
    names: list[str]
    unreadable: list[str]

    @classmethod
    def read(cls, folder: Path) -> Codes:
        """The codes in a folder.

        Raises:
            UserError: if there are none, or they are unfinished or damaged.
        """
        try:
            header = CodesHeader.from_json(json.loads((folder / HEADER).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / HEADER} cannot be read ({error}); expected the folder of codes that data-cluster finished"
            ) from error
        try:
            digits = np.load(folder / DIGITS, allow_pickle=False)
            names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
            codes = cls(folder, header, digits, names["names"], names["unreadable"])
            if (
                fingerprint_of(digits, codes.names, codes.unreadable) != header.fingerprint
                or len(codes.names) != len(digits)
                or leaf_sizes(digits, header.children) != header.sizes
            ):
                raise ValueError("digits and names are not those that codes.json was written for")
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
            raise UserError(
                f"the codes in {folder} are damaged ({error}); make them again with data-cluster --overwrite"
            ) from error
        return codes

    @property
    def centroids(self) -> tuple[np.ndarray, ...]:
        """The centroids of all parts, by level: (children**(level + 1), C), each of length 1, in double precision.

        Raises:
            UserError: if their file is damaged or another.
        """
        return self._centroids[1:]

    @property
    def centroid(self) -> np.ndarray:
        """The centroid of all images, (C,), as those of the parts."""
        return self._centroids[0][0]

    @cached_property
    def _centroids(self) -> tuple[np.ndarray, ...]:
        path, levels = self.folder / CENTROIDS, range(self.header.levels + 1)
        tensors, _ = read_tensors(path)
        found = tuple(tensors[name].double().numpy() for level in levels if (name := _level(level)) in tensors)
        expected = [(self.header.children**level, self.header.store.dim) for level in levels]
        if [each.shape for each in found] != expected or not all(np.isfinite(each).all() for each in found):
            raise UserError(
                f"{path} does not hold the centroids of these codes; make them again with data-cluster --overwrite"
            )
        return found

    def of(self, images: Images) -> np.ndarray:
        """The codes of images in the order of their source.

        Args:
            images: the images that the embedding store was made of.

        Returns:
            (len(images), levels), int64; -1 in the rows of images that could not be read.

        Raises:
            UserError: if they are other images, or their files have changed.
        """
        rows = {name: row for row, name in enumerate(self.names)} | dict.fromkeys(self.unreadable, -1)
        missing = [name for name in images.names if name not in rows]
        if missing:
            raise UserError(
                f"{self.folder} holds codes of other images: {len(missing)} of the {len(images)} images of "
                f"{images.root} have none, {missing[0]} is the first; embed and cluster these images "
                "(data-embed, data-cluster)"
            )
        if images.fingerprint() != self.header.store.source["fingerprint"]:
            raise UserError(
                f"{self.folder} holds codes of {self.header.store.source['images']} images of "
                f"{self.header.store.source['path']}, and the {len(images)} images of {images.root} are not all of "
                "them or have changed since; embed and cluster these images (data-embed, data-cluster)"
            )
        digits = np.vstack([self.digits.astype(np.int64), np.full(self.header.levels, -1)])
        return digits[[rows[name] for name in images.names]]

    def assign(self, features: np.ndarray) -> np.ndarray:
        """The codes of any features: at every level the part whose centroid is the most similar.

        Of the images that the codes were made of some get another code than theirs, which keeps the parts balanced.

        Args:
            features: (N, C), each of length 1, by the same network.

        Returns:
            (N, levels), int64.
        """
        digits = np.empty((len(features), self.header.levels), np.int64)
        part: np.ndarray = np.zeros(len(features), np.int64)
        for level, centroids in enumerate(self.centroids):
            similarities = (features @ centroids.T).reshape(len(features), -1, self.header.children)
            digits[:, level] = similarities[np.arange(len(features)), part].argmax(axis=1)
            part = part * self.header.children + digits[:, level]
        return digits

    def fingerprint(self) -> str:
        """A hash of digits and names: the same for the same codes of the same images."""
        return self.header.fingerprint

    def __str__(self) -> str:
        """What came of it."""
        header = self.header
        dealt = ", dealt at random" if header.random else ""
        cohesion, random = (_in_words(each) for each in (header.cohesion, header.random_cohesion))
        lines = [
            f"{header.images} images in {header.leaves} leaves of {min(header.sizes)} to {max(header.sizes)} images, "
            f"{header.levels} levels of {header.children} children{dealt}",
            f"mean similarity to the part's centroid, by level: {cohesion} (random parts: {random})",
        ]
        if self.unreadable:
            lines.append(f"without a code, since they could not be read: {len(self.unreadable)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Codes({str(self.folder)!r}: {self.header.images} images in {self.header.leaves} parts)"

    def __fspath__(self) -> str:
        """The folder: what takes the path of codes takes this too."""
        return str(self.folder)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        header = self.header
        return facts_table(
            {
                "codes": self.folder,
                "images": f"{header.images:,}",
                "parts": f"{header.leaves:,} in {header.levels} levels of {header.children}",
                "images in a part": f"{min(header.sizes):,} to {max(header.sizes):,}",
                "similarity to the centroid": _in_words(header.cohesion),
            }
        )


def leaf_numbers(digits: np.ndarray, children: int) -> np.ndarray:
    """The number of the part that each code, or each beginning of one, leads to.

    Args:
        digits: (N, levels).
        children: parts of every part.

    Returns:
        (N,), int64, from 0 to children**levels - 1.

    Raises:
        ValueError: if there is no such part.
    """
    return np.ravel_multi_index(tuple(digits.T), (children,) * digits.shape[1])


def leaf_sizes(digits: np.ndarray, children: int) -> tuple[int, ...]:
    """How many images each part of the last level has; see :func:`leaf_numbers`."""
    return tuple(np.bincount(leaf_numbers(digits, children), minlength=children ** digits.shape[1]).tolist())


def fingerprint_of(digits: np.ndarray, names: Sequence[str], unreadable: Sequence[str]) -> str:
    """A hash of codes.

    Args:
        digits: (N, levels), uint8.
        names: of the images.
        unreadable: names of those without a code.
    """
    digest = hashlib.sha256(f"{json.dumps([digits.dtype.str, digits.shape, names, unreadable])}\n".encode())
    digest.update(np.ascontiguousarray(digits).data)
    return digest.hexdigest()


def require_room(folder: Path, overwrite: bool) -> None:
    """Check that codes may be written into a folder.

    Args:
        folder: the folder.
        overwrite: whether codes in it may be replaced; those that are unfinished always may.

    Raises:
        UserError: if it is a file, holds other things, or codes that may not be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder, or a name that is free")
    if (folder / HEADER).is_file() and not overwrite:
        raise UserError(f"{folder} holds codes already; give another folder, or pass --overwrite")
    own = {HEADER, DIGITS, NAMES, CENTROIDS, NETWORK, PAGE}
    if folder.is_dir() and any(path.name not in own and path.suffix != ".tmp" for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files; give a folder that is empty, or a name that is free")


def write_codes(codes: Codes, centroids: Sequence[np.ndarray], store: Path, page: str) -> None:
    """Write codes, the header last; those that the folder holds are replaced.

    Args:
        codes: the codes.
        centroids: of all images (1, C), and of all parts, by level, see :attr:`Codes.centroids`.
        store: the folder of the embedding store, whose network is copied if it has it.
        page: the HTML page that shows them.
    """
    folder = codes.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in (HEADER, NETWORK):
        (folder / name).unlink(missing_ok=True)
    for unfinished in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        unfinished.unlink(missing_ok=True)
    tensors = {_level(level): np.ascontiguousarray(each) for level, each in enumerate(centroids)}
    names = json.dumps({"names": codes.names, "unreadable": codes.unreadable}) + "\n"
    header = json.dumps(codes.header.to_json(), indent=1) + "\n"

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, codes.digits)

    write_whole(folder / DIGITS, save)
    write_whole(folder / NAMES, lambda path: path.write_text(names, encoding="utf-8"))
    write_whole(folder / CENTROIDS, lambda path: save_file(tensors, path))
    if (store / NETWORK).is_file():
        write_whole(folder / NETWORK, lambda path: shutil.copyfile(store / NETWORK, path))
    write_whole(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    write_whole(folder / HEADER, lambda path: path.write_text(header, encoding="utf-8"))


def _in_words(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in values)


def _level(level: int) -> str:
    return f"level.{level}"
