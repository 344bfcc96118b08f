"""How many classes a segmenter's heads tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict

from data_plugin.utils.errors import UserError


def set_classes(model: ConfigDict, count: int) -> None:
    """Let the decode and auxiliary heads, and what in them has the same number of classes, tell so many apart.

    Args:
        model: the config's model; changed in place.
        count: how many classes are labelled.

    Raises:
        UserError: if a head gives its classes different weights.
    """
    for name in ("decode_head", "auxiliary_head"):
        head = model.get(name)
        for at, entry in enumerate(head) if isinstance(head, (list, tuple)) else [("", head)]:
            if entry and "num_classes" in entry:
                before = entry.num_classes
                for part in _parts(entry):
                    _resize(part, before, count, f"model.{name}.{at}".rstrip("."))


def _parts(node: Any) -> Iterator[ConfigDict]:
    if isinstance(node, ConfigDict):
        yield node
    children = node.values() if isinstance(node, ConfigDict) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        yield from _parts(child)


def _resize(part: ConfigDict, before: int, count: int, at: str) -> None:
    if part.get("num_classes") == before:
        part.num_classes = count
    weights = part.get("class_weight")
    if isinstance(weights, (list, tuple)) and len(weights) in (before, before + 1) and before != count:
        if len(set(weights[:before])) > 1:
            raise UserError(
                f"{at} weights its {before} classes differently (class_weight {list(weights)}), and the data have "
                f"{count}; expected no weights: set its class_weight to None, or one for each class"
            )
        part.class_weight = [*weights[:1] * count, *weights[before:]]  # one more is for no class
