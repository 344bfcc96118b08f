"""Sizes and boxes in the records of any data set of detectron2's catalogs, against the images that they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from detectron2.structures import BoxMode

from data_plugin.backbones.detectron2.datasets import Record
from data_plugin.images.image_size import upright_size
from data_plugin.utils.errors import UserError


def check_records(name: str, records: Sequence[Record]) -> None:
    """Check that images have the size that their records give, and that every box covers some of its image.

    For data sets that are read by a function of the user's or by one of detectron2's that does not look. Of an image
    the header alone is read, several at once. What detectron2 leaves out passes: boxes of nothing.

    Args:
        name: the data set.
        records: its images, all of which are there, with their annotations.

    Raises:
        UserError: naming the first image or box that is at fault, and how many are.
    """
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(upright_size, [Path(record["file_name"]) for record in records]))
    _check_sizes(name, records, sizes)
    boxes = [
        (record, size, annotation)
        for record, size in zip(records, sizes, strict=True)
        for annotation in record.get("annotations", ())
    ]
    _check_boxes(name, boxes)


def _check_sizes(name: str, records: Sequence[Record], sizes: Sequence[tuple[int, int]]) -> None:
    other = [
        (record, real)
        for record, real in zip(records, sizes, strict=True)
        if (record.get("width", real[0]), record.get("height", real[1])) != real
    ]
    if other:
        record, (width, height) = other[0]
        raise UserError(
            f"the data set {name} gives {record['file_name']} the width {record.get('width')} and the height "
            f"{record.get('height')} where it has {width} and {height}, the first of {len(other)} such images; "
            "detectron2 reads no image of another size: correct them, and the boxes if they are in pixels of another"
        )


def _check_boxes(name: str, boxes: Sequence[tuple[Record, tuple[int, int], Mapping[str, Any]]]) -> None:
    wrong = [each for each in boxes if not _covers(each[2], *each[1])]
    if wrong:
        record, (width, height), annotation = wrong[0]
        raise UserError(
            f"the data set {name} has a box of {record['file_name']}, which has {width}x{height} pixels, with the bbox "
            f"{annotation.get('bbox')} in the bbox_mode {annotation.get('bbox_mode')!r}, the first of {len(wrong)} "
            "such; expected four finite numbers in a BoxMode in pixels, from left to right and top to bottom, that "
            "cover some of the image"
        )


def _covers(annotation: Mapping[str, Any], width: int, height: int) -> bool:
    """Whether a box covers some of its image, or is one of nothing, or a turned one, which is not judged."""
    box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
    if mode == BoxMode.XYWHA_ABS:
        return _are_numbers(box, 5)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS) or not _are_numbers(box, 4):
        return False
    left, top, right, bottom = BoxMode.convert([float(each) for each in box], BoxMode(mode), BoxMode.XYXY_ABS)
    if right < left or bottom < top:
        return False
    nothing = left == right or top == bottom
    return nothing or (left < width and right > 0 and top < height and bottom > 0)


def _are_numbers(box: Any, count: int) -> TypeGuard[Sequence[float]]:
    """Whether a box is of so many finite numbers."""
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != count:
        return False
    return all(isinstance(each, Real) and math.isfinite(each) for each in box)
