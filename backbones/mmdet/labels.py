"""How many classes of objects a config's data sets label and its model tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import ConfigDict

from data_plugin.utils.errors import UserError


def kind(leaf: ConfigDict) -> Any:
    """The class of a data set entry."""
    return leaf.type if isinstance(leaf.type, type) else DATASETS.get(leaf.type)


def class_names(leaf: ConfigDict) -> tuple[str, ...]:
    """Classes of a data set entry, by its ``metainfo`` or else its type's; a label is an index into those it uses."""
    given = (leaf.get("metainfo") or {}).get("classes")
    names = kind(leaf).METAINFO.get("classes", ()) if given is None else given
    return (names,) if isinstance(names, str) else tuple(names)


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
    for head, classes in _class_counts(model, "model"):
        if classes != count:
            raise UserError(
                f"{source} has labels 0 to {count - 1}, but {head}.num_classes is {classes}; expected {count}"
            )


def _class_counts(node: Any, at: str) -> Iterator[tuple[str, int]]:
    children = enumerate(node) if isinstance(node, (list, tuple)) else node.items() if isinstance(node, dict) else ()
    named = [part for part in at.split(".") if not part.isdecimal()]
    if isinstance(node, dict) and named[-1] in ("bbox_head", "mask_head") and type(node.get("num_classes")) is int:
        yield at, node["num_classes"]
    for key, child in children:
        yield from _class_counts(child, f"{at}.{key}")
