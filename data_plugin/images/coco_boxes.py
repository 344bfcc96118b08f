"""Sizes, boxes and areas in files of COCO's format, against the images that they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_plugin.images.coco import Lists, image_names, read_coco
from data_plugin.images.endings import beside
from data_plugin.images.image_size import upright_size
from data_plugin.utils.errors import UserError

FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
"""What every annotation needs for frameworks to train on it and their evaluators to score it."""

Entry = Mapping[str, Any]


def check_coco(file: Path, folder: Path) -> Lists:
    """Check that images are there in the size that a file gives, and that every box covers some of its image.

    Of an image the header alone is read, several at once. What frameworks leave out by convention passes: crowds, and
    boxes or areas of nothing.

    Args:
        file: a file in COCO's format.
        folder: the folder of its images.

    Returns:
        What :func:`read_coco` returns.

    Raises:
        UserError: naming the first image or annotation that is at fault, and how many are.
    """
    contents = read_coco(file)
    images, annotations = contents["images"], contents["annotations"]
    _check_sizes(file, images, [folder / name for name in image_names(file, images)])
    _check_fields(file, annotations)
    _check_numbers(file, annotations)
    _check_places(file, annotations, {image["id"]: (image["width"], image["height"]) for image in images})
    return contents


def _check_sizes(file: Path, images: Sequence[Entry], paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is missing, the first of {len(missing)} such images that {file} lists{beside(missing[0])}"
        )
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(upright_size, paths))
    said = [(image.get("width"), image.get("height")) for image in images]
    other = [each for each in zip(paths, said, sizes, strict=True) if each[1] != each[2]]
    if other:
        path, (width, height), (real_width, real_height) = other[0]
        raise UserError(
            f"{file} gives {path} the width {width} and the height {height} where it has {real_width} and "
            f"{real_height}, the first of {len(other)} such images; expected the image's as it is shown: correct them, "
            "and the boxes if they are in pixels of another size"
        )


def _check_fields(file: Path, annotations: Sequence[Entry]) -> None:
    for field in FIELDS:
        lacking = [each for each in annotations if field not in each]
        if lacking:
            raise UserError(
                f"{file} has an annotation without {field} (id {lacking[0].get('id')}), the first of {len(lacking)} "
                f"such; expected {', '.join(FIELDS)} in each: the area is that of the mask, or of the box where there "
                "is none, and iscrowd 0 for one object"
            )


def _check_numbers(file: Path, annotations: Sequence[Entry]) -> None:
    bad = [each for each in annotations if not _has_numbers(each)]
    if bad:
        raise UserError(
            f"{file} has an annotation (id {bad[0]['id']}) with the bbox {bad[0]['bbox']}, the area {bad[0]['area']} "
            f"and the iscrowd {bad[0]['iscrowd']!r}, the first of {len(bad)} such; expected x, y, width and height as "
            "finite numbers, width, height and area not below 0, and an iscrowd of 0 or 1"
        )


def _has_numbers(annotation: Entry) -> bool:
    box = annotation["bbox"]
    numbers = [*box, annotation["area"]] if isinstance(box, list) else []
    return (
        len(numbers) == 5
        and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
        and min(numbers[2:]) >= 0
        and annotation["iscrowd"] in (0, 1)
    )


def _check_places(file: Path, annotations: Sequence[Entry], sizes: Mapping[Any, tuple[int, int]]) -> None:
    listed = [each for each in annotations if each["image_id"] in sizes]
    outside = [each for each in listed if _is_outside(each["bbox"], sizes[each["image_id"]])]
    if outside:
        width, height = sizes[outside[0]["image_id"]]
        raise UserError(
            f"{file} has an annotation (id {outside[0]['id']}) with the bbox {outside[0]['bbox']}, which covers "
            f"nothing of its image of {width}x{height} pixels, the first of {len(outside)} such; expected boxes within "
            "the image: correct them, or remove the annotations"
        )


def _is_outside(box: Sequence[float], size: tuple[int, int]) -> bool:
    (x, y, width, height), (image_width, image_height) = box, size
    return min(width, height) > 0 and not (-width < x < image_width and -height < y < image_height)
