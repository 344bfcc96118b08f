"""Which classes of objects data sets in PASCAL VOC layout have: VOC's twenty, or their own."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_plugin.images.class_names import check_names, some
from data_plugin.images.voc import CLASSES, VOCSplit, object_names
from data_plugin.utils.errors import UserError


def find_classes(splits: Sequence[VOCSplit], named: Sequence[str] | None = None) -> tuple[str, ...]:
    """The classes of splits that one detector is trained and evaluated on.

    A warning says which classes of its own a data set has, which objects are left out, or that no class was found.

    Args:
        splits: the splits; a list or an annotation that is not there is passed over, since a search needs no labels.
        named: the classes, in order. None takes :data:`CLASSES` where the annotations name no other, and otherwise
            what they name, sorted.

    Returns:
        The classes in the order of their labels.

    Raises:
        UserError: if the annotations name a class that is not among ``named`` while one of those is in none of them,
            which is taken for a slip; ``named`` is empty or names a class twice; or an annotation cannot be read.
    """
    if named is not None:
        check_names(named)
    listed = list(dict.fromkeys(annotation for split in splits for annotation in _annotations(split)))
    objects: Counter[str] = Counter()
    found_in: dict[str, Path] = {}
    for annotation in filter(Path.is_file, listed):
        for name in object_names(annotation):
            objects[name] += 1
            found_in.setdefault(name, annotation)
    if named is not None:
        _leave_out(objects, found_in, named)
        return tuple(named)
    if not objects and listed:
        _say(
            f"no annotation in {listed[0].parent} names a class, so the detector keeps VOC's twenty; fine-tuning reads "
            "the classes once there are labels"
        )
    if objects.keys() <= set(CLASSES):
        return CLASSES
    classes = tuple(sorted(objects))
    _say(
        f"the annotations in {listed[0].parent} name classes of their own, which the detector gets: "
        f"{_counted(objects, classes)} objects"
    )
    return classes


def _annotations(split: VOCSplit) -> list[Path]:
    # Whoever trains or evaluates on a split checks its list; a search may do without that of the test images.
    with contextlib.suppress(UserError):
        return [split.annotation(name) for name in split.names]
    return []


def _leave_out(objects: Counter[str], found_in: dict[str, Path], named: Sequence[str]) -> None:
    """Say which objects are left out where ``named`` are some of their classes, and refuse what seems a slip."""
    outside = sorted(objects.keys() - set(named))
    absent = [name for name in named if name not in objects]
    if outside and absent:
        raise UserError(
            f"{found_in[outside[0]]} has an object of class {outside[0]!r}, which is none of the classes "
            f"{some(named)}, while no annotation has a {absent[0]!r}; expected the classes that the annotations name "
            f"({some(sorted(objects))}) or some of them"
        )
    if outside:
        _say(
            f"objects whose class is not among {some(named)} are left out: {_counted(objects, outside)} objects, "
            f"the first in {found_in[outside[0]]}"
        )


def _counted(objects: Counter[str], classes: Sequence[str]) -> str:
    return some([f"{name} {objects[name]}" for name in classes])


def _say(text: str) -> None:
    # From one line, so that two frameworks that open the same data do not say it twice.
    warnings.warn(text, stacklevel=2)
