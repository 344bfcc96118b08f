"""How many classes of objects a config's data sets label and its model tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.fileio import list_from_file

from data_plugin.utils.errors import UserError


def kind(leaf: ConfigDict) -> Any:
    """The class of a data set entry."""
    return leaf.type if isinstance(leaf.type, type) else DATASETS.get(leaf.type)


def class_names(leaf: ConfigDict) -> tuple[str, ...]:
    """Classes of a data set entry, by its ``metainfo`` or else its type's; a label is an index into those it uses."""
    given = (leaf.get("metainfo") or {}).get("classes")
    names = kind(leaf).METAINFO.get("classes", ()) if given is None else given
    if isinstance(names, str):  # MMEngine takes the name of a file with one class a line, too
        return tuple(list_from_file(names)) if Path(names).is_file() else (names,)
    return tuple(names)


def require_classes(model: ConfigDict, count: int, source: object) -> None:
    """Check that every head for objects tells as many classes apart as are labelled.

    With fewer, labels would be out of range in training; with more, predictions in evaluation.

    Args:
        model: the config's model.
        count: how many classes are labelled, 0 to ``count - 1``.
        source: where the labels are from, for the message.

    Raises:
        UserError: naming the first head with another number of classes.
    """
    for at, head in _heads(model, "model"):
        if head.num_classes != count:
            raise UserError(
                f"{source} has labels 0 to {count - 1}, but {at}.num_classes is {head.num_classes}; expected {count}"
            )


def set_classes(model: ConfigDict, count: int) -> None:
    """Let every head for objects tell so many classes apart; one that proposes regions has no such number to change.

    Args:
        model: the config's model; changed in place.
        count: how many classes are labelled.
    """
    for _, head in _heads(model, "model"):
        head.num_classes = count


def _heads(node: Any, at: str) -> Iterator[tuple[str, ConfigDict]]:
    """Heads for objects with a number of classes, those in lists and in models within the model too, and where."""
    children = enumerate(node) if isinstance(node, (list, tuple)) else node.items() if isinstance(node, dict) else ()
    named = [part for part in at.split(".") if not part.isdecimal()]
    if isinstance(node, dict) and named[-1] in ("bbox_head", "mask_head") and type(node.get("num_classes")) is int:
        yield at, node
    for key, child in children:
        yield from _heads(child, f"{at}.{key}")
