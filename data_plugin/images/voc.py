"""Finding and checking a data set in PASCAL VOC layout before a framework reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from data_plugin.utils.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of PASCAL VOC, in the order that all frameworks use."""


def voc_root(data_root: Path) -> Path:
    """The folder that holds ``VOC2007``: the given one or its ``VOCdevkit``.

    Raises:
        UserError: if the folder is missing or neither holds ``VOC2007``.
    """
    if not data_root.is_dir():
        raise UserError(f"the data root {data_root} is not a folder; give --data-root the folder that holds VOC2007")
    for root in (data_root, data_root / "VOCdevkit"):
        if (root / "VOC2007").is_dir():
            return root
    raise UserError(
        f"the data root {data_root} is not in VOC layout; "
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


def check_voc(root: Path, year: str, split: str) -> int:
    """Check one split: its list, and for every image in it the photograph, the annotation and the class names.

    Args:
        root: the folder that :func:`voc_root` returned.
        year: ``2007`` or ``2012``.
        split: a name in ``ImageSets/Main``, such as ``trainval``.

    Returns:
        The number of images.

    Raises:
        UserError: naming the first file that is missing, unreadable or holds a class outside :data:`CLASSES`.
    """
    folder = root / f"VOC{year}"
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    names = listed_names(listing)
    for name in names:
        if not (folder / "JPEGImages" / f"{name}.jpg").is_file():
            raise UserError(f"{folder / 'JPEGImages' / name}.jpg is missing, but {listing.name} lists it")
        annotation = folder / "Annotations" / f"{name}.xml"
        try:
            objects = ElementTree.parse(annotation).findall("object")
        except (OSError, ElementTree.ParseError) as error:
            raise UserError(f"{annotation} is missing or not an annotation ({error})") from error
        _check_classes(annotation, [item.findtext("name", default="") for item in objects])
    return len(names)


def _check_classes(annotation: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in CLASSES:
            raise UserError(f"{annotation} has an object of class {name!r}; expected one of {', '.join(CLASSES)}")
