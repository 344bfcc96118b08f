"""Finding and checking a data set in PASCAL VOC layout before a framework reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from data_plugin.images.class_names import some
from data_plugin.images.endings import beside
from data_plugin.utils.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of PASCAL VOC, in the order that all frameworks use."""


YEARS = ("VOC2007", "VOC2012")
"""Folders of a data root, each with images and splits of its own."""


def voc_root(data_root: Path) -> Path:
    """The folder that holds one of :data:`YEARS`: the given one or its ``VOCdevkit``.

    Raises:
        UserError: if the folder is missing or neither holds one.
    """
    where = data_root.absolute()
    if not data_root.is_dir():
        raise UserError(f"the data root {where} is not a folder; give --data-root the folder that holds VOC2007")
    for root in (data_root, data_root / "VOCdevkit"):
        if any((root / year).is_dir() for year in YEARS):
            return root
    raise UserError(
        f"the data root {where} is not in VOC layout; "
        "expected VOC2007/{JPEGImages,Annotations,ImageSets/Main} in it or in its VOCdevkit folder"
    )


def listed_names(listing: Path) -> list[str]:
    """The image names of a split.

    Args:
        listing: a file of ``ImageSets/Main``, such as ``trainval.txt``: one name a line, of which more may follow.

    Raises:
        UserError: if the file is missing, is not text, or lists no image.
    """
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{listing} is missing; expected the image names of a split, one a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{listing} is not text ({error}); expected the image names of a split, one a line") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{listing} lists no image; expected one name a line")
    return names


@dataclass(frozen=True)
class VOCSplit:
    """Images that are trained or evaluated on together.

    Args:
        folder: the folder of a year, such as ``VOC2007``, with ``JPEGImages`` and ``Annotations``.
        listing: the file that lists their names, see :func:`listed_names`.
        picked_by: what in a config picks a split, in words, for whoever has other lists than the config's.
    """

    folder: Path
    listing: Path
    picked_by: str = ""

    @classmethod
    def named(cls, folder: Path, name: str, picked_by: str = "") -> VOCSplit:
        """The split of a name in ``ImageSets/Main``, such as ``trainval``."""
        return cls(folder, folder / "ImageSets" / "Main" / f"{name}.txt", picked_by)

    @property
    def names(self) -> list[str]:
        """Names of the images; see :func:`listed_names`, whose errors it raises."""
        try:
            return listed_names(self.listing)
        except UserError as error:
            raise error if self.listing.is_file() else UserError(f"{error}{self.others}") from error

    @property
    def others(self) -> str:
        """Which lists there are where its own is missing, and what picks one; the end of a sentence, or empty."""
        folders = sorted({*(self.folder.with_name(year) for year in YEARS), self.folder})
        # Of names with an underscore, such as dog_train, there are twenty times as many: those of one class.
        lists = [file for each in folders for file in each.glob("ImageSets/Main/*.txt") if "_" not in file.stem]
        if not lists:
            return ""
        there = some(sorted(f"{file.parents[2].name}'s {file.name}" for file in lists))
        return f"; there {'is' if len(lists) == 1 else 'are'} {there}{self.picked_by and f', and {self.picked_by}'}"

    def photograph(self, name: str) -> Path:
        """Where the image of a name is."""
        return self.folder / "JPEGImages" / f"{name}.jpg"

    def annotation(self, name: str) -> Path:
        """Where the annotation of an image is."""
        return self.folder / "Annotations" / f"{name}.xml"


def missing_lists(splits: Sequence[VOCSplit]) -> list[str]:
    """A sentence about every split whose list is missing where the data are, so that it is not found out late."""
    return [
        f"{split.listing} is missing{split.others}"
        for split in splits
        if split.folder.parent.is_dir() and not split.listing.is_file()
    ]


def object_names(annotation: Path) -> list[str]:
    """The class of every object in an annotation.

    Raises:
        UserError: if the file is missing or no annotation in XML, or an object in it has no name, or one with white
            space around it.
    """
    try:
        objects = ElementTree.parse(annotation).findall("object")
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of odd encodings
        raise UserError(f"{annotation} is missing or not an annotation in XML ({error})") from error
    names = [item.findtext("name", default="") for item in objects]
    if not all(name.strip() for name in names):
        raise UserError(f"{annotation} has an object without a name; expected <name> with its class in every <object>")
    padded = [name for name in names if name != name.strip()]
    if padded:  # frameworks compare names as they are written
        raise UserError(
            f"{annotation} has an object of class {padded[0]!r}; expected <name>{padded[0].strip()}</name>, without "
            "spaces or line breaks around it, in all annotations"
        )
    return names


def check_voc(split: VOCSplit) -> Counter[str]:
    """Check one split: its list, and for every image in it the photograph and the annotation.

    Returns:
        The number of objects of every class.

    Raises:
        UserError: naming the first file that is missing or that :func:`object_names` refuses.
    """
    objects: Counter[str] = Counter()
    for name in split.names:
        if not split.photograph(name).is_file():
            raise UserError(
                f"{split.photograph(name)} is missing, but {split.listing.name} lists it"
                f"{beside(split.photograph(name))}"
            )
        objects.update(object_names(split.annotation(name)))
    return objects
