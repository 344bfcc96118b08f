"""Which classes of objects files in COCO's format have: COCO's eighty, or their own."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_plugin.images.class_names import check_names, some
from data_plugin.utils.errors import UserError

_KEY = re.compile(r'"categories"\s*:\s*')


def find_classes(files: Sequence[Path], usual: Sequence[str], named: Sequence[str] | None = None) -> tuple[str, ...]:
    """The classes of files that one detector is trained and evaluated on.

    A warning says which classes of its own a file has, and which are left out.

    Args:
        files: the files; one that is not there or lists no category is passed over, since a search needs no labels.
        usual: the classes that the detector has where no file lists others: COCO's eighty.
        named: the classes, in order; None takes the files' categories, in the order of their ids.

    Returns:
        The classes in the order of their labels.

    Raises:
        UserError: if a file lists a category without id or name or one name twice, files list different categories, a
            file lacks one of ``named``, or these are none or one of them twice.
    """
    if named is not None:
        check_names(named)
    listed = {file: tuple(found.values()) for file in dict.fromkeys(files) if (found := categories(file))}
    if named is not None:
        for file, names in listed.items():
            _check_listed(file, names, named)
        return tuple(named)
    if not listed:
        return tuple(usual)
    (first, classes), *others = listed.items()
    for file, names in others:
        if names != classes:
            alone = some(sorted({*classes} ^ {*names}))
            raise UserError(
                f"{first} and {file} list different categories "
                f"({f'{alone} in one of them alone' if alone else 'the same in another order of their ids'}); expected "
                "the same in both, or --classes with those that both list"
            )
    if classes != tuple(usual):
        _say(f"{first} lists categories of its own, which the detector gets as its classes: {some(classes)}")
    return classes


def categories(file: Path) -> dict[int, str]:
    """The ids and names of a file's categories, in the order of the ids; none where it is not there or lists none.

    Raises:
        UserError: if a category has no whole number as its id or no name, or two have the same.
    """
    # Who trains on a file that is missing or no JSON says so; a search may do without it.
    with contextlib.suppress(OSError, ValueError):
        found = _listed(file.read_text(encoding="utf-8"))
        return named_by_id(file, found) if isinstance(found, list) else {}
    return {}


def named_by_id(file: Path, found: Sequence[Any]) -> dict[int, str]:
    """The ids and names of categories, in the order of the ids.

    Args:
        file: the file that lists them, for the message.
        found: what it lists.

    Raises:
        UserError: see :func:`categories`.
    """
    for each in found:
        whole = isinstance(each, dict) and type(each.get("id")) is int
        if not (whole and isinstance(each.get("name"), str) and each["name"].strip()):
            raise UserError(f"{file} lists the category {each!r}; expected an id, which is a whole number, and a name")
    for key in ("id", "name"):
        twice = [value for value, count in Counter(each[key] for each in found).items() if count > 1]
        if twice:
            raise UserError(f"{file} lists two categories of the {key} {twice[0]!r}; expected each {key} once")
    return {each["id"]: each["name"] for each in sorted(found, key=lambda each: each["id"])}


def _listed(text: str) -> Any:
    # Of COCO's 450 MB the categories are the last few kB: where the key is there once, the rest need not be parsed.
    found = list(_KEY.finditer(text))
    if len(found) == 1:
        return json.JSONDecoder().raw_decode(text, found[0].end())[0]
    contents = json.loads(text)
    return contents.get("categories") if isinstance(contents, dict) else None


def _check_listed(file: Path, names: Sequence[str], named: Sequence[str]) -> None:
    absent = [name for name in named if name not in names]
    if absent:
        raise UserError(
            f"{file} lists no category {absent[0]!r}, which is one of the classes {some(named)}; expected classes that "
            f"it lists ({some(names)}), or give --classes"
        )
    outside = [name for name in names if name not in named]
    if outside:
        _say(f"objects of the categories {some(outside)} of {file} are none of the classes {some(named)}: left out")


def _say(text: str) -> None:
    # From one line, so that two frameworks that open the same data do not say it twice.
    warnings.warn(text, stacklevel=2)
