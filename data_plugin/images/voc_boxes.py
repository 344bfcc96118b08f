"""Boxes and sizes in annotations of PASCAL VOC layout, against the images that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from data_plugin.images.image_size import upright_size
from data_plugin.images.voc import VOCSplit
from data_plugin.utils.errors import UserError

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels from 1, as VOC counts them; both corners belong to the box."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with what its annotation says.

    Args:
        annotation: the annotation's file.
        size: the image's width and height in pixels.
        said_size: those that the annotation gives; None where it gives none.
        boxes: the boxes of its objects, fractions of pixels cut off.
    """

    annotation: Path
    size: tuple[int, int]
    said_size: tuple[int, int] | None
    boxes: Sequence[Box]


def annotated_images(split: VOCSplit) -> list[AnnotatedImage]:
    """The images of a split, all of which are there with their annotations.

    Raises:
        UserError: naming the first image that is none, or annotation with an object without a box or a size without
            numbers.
    """
    return [_annotated(split.annotation(name), split.photograph(name)) for name in split.names]


def check_boxes(images: Sequence[AnnotatedImage], last: int) -> None:
    """Check that every box has an extent within its image, without which a detector cannot learn it.

    Args:
        images: the images.
        last: 1 where a framework counts the right and bottom pixels of a box in, as VOC does, and 0 where it does not.

    Raises:
        UserError: naming the first box that has none, and how many there are.
    """
    empty = [(image, box) for image in images for box in image.boxes if not _has_extent(box, image.size, last)]
    if empty:
        image, (left, top, right, bottom) = empty[0]
        width, height = image.size
        raise UserError(
            f"{image.annotation} has an object from {left},{top} to {right},{bottom}, which covers nothing of its "
            f"image of {width}x{height} pixels, the first of {len(empty)} such objects; expected xmin < xmax and "
            "ymin < ymax within the image: correct them, or remove the objects"
        )


def of_other_size(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """The images whose annotation gives another size than they have, or none."""
    return [image for image in images if image.said_size != image.size]


def _annotated(annotation: Path, photograph: Path) -> AnnotatedImage:
    root = ElementTree.parse(annotation).getroot()
    size = root.find("size")
    return AnnotatedImage(
        annotation,
        upright_size(photograph),
        None if size is None else (_whole(annotation, size, "width"), _whole(annotation, size, "height")),
        [_box(annotation, item) for item in root.findall("object")],
    )


def _whole(annotation: Path, size: ElementTree.Element, key: str) -> int:
    text = size.findtext(key, default="")
    try:
        return int(text)
    except ValueError as error:
        raise UserError(
            f"{annotation} gives the {key} {text!r} in its <size>; expected a whole number of pixels"
        ) from error


def _box(annotation: Path, item: ElementTree.Element) -> Box:
    texts = [item.findtext(f"bndbox/{key}", default="") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (int(float(text)) for text in texts)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{annotation} has an object {item.findtext('name')!r} whose <bndbox> is {' '.join(texts).strip()!r}; "
            "expected numbers of pixels in xmin, ymin, xmax and ymax"
        ) from error
    return left, top, right, bottom


def _has_extent(box: Box, size: tuple[int, int], last: int) -> bool:
    left, top, right, bottom = box
    width, height = size
    return min(right + last, width + 1) > max(left, 1) and min(bottom + last, height + 1) > max(top, 1)
