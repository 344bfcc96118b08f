"""How many classes of objects a config's data sets label and its model tells apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file

from data_plugin.utils.errors import UserError

HEADS = ("bbox_head", "glbctx_head", "mask_head", "mask_iou_head", "point_head", "query_head")
"""What entries of heads are called that tell the classes of objects apart, where they have ``num_classes``."""

THINGS = "num_things_classes"
"""What heads for objects and stuff, such as MaskFormer's, call their number of classes of objects."""

Entry = tuple[str, ConfigDict]
"""A loader's name, and a data set in it."""


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
    for at, head, key in _heads(model, "model"):
        if head[key] != count:
            raise UserError(f"{source} has labels 0 to {count - 1}, but {at}.{key} is {head[key]}; expected {count}")


def named_in_config(entries: Sequence[Entry]) -> tuple[str, ...] | None:
    """The classes that the ``metainfo`` of data sets names; None where it names none.

    Args:
        entries: the data sets.

    Raises:
        UserError: if data sets name different ones.
    """
    own: dict[tuple[str, ...], str] = {}
    for loader, leaf in entries:
        if (leaf.get("metainfo") or {}).get("classes"):
            own.setdefault(class_names(leaf), loader)
    if len(own) > 1:
        (first, one), (second, other), *_ = own.items()
        raise UserError(
            f"the config names the classes {', '.join(first)} in its {one} and {', '.join(second)} in its {other}; "
            "expected the same in all of train_dataloader, val_dataloader and test_dataloader"
        )
    return next(iter(own), None)


def give_classes(config: Config, entries: Sequence[Entry], data_set: type, classes: Sequence[str]) -> None:
    """Give data sets classes of their own, and all heads for objects their number.

    Args:
        config: the config; changed in place.
        entries: its data sets.
        data_set: what takes the place of their class, which knows the framework's own classes alone.
        classes: the classes, in the order of their labels.
    """
    for _, leaf in entries:
        leaf.type = data_set.__name__
        leaf.metainfo = {**(leaf.get("metainfo") or {}), "classes": tuple(classes)}
    set_classes(config.model, len(classes))


def set_classes(model: ConfigDict, count: int) -> None:
    """Let every head for objects tell so many classes apart; one that proposes regions has no such number to change.

    Args:
        model: the config's model; changed in place.
        count: how many classes are labelled.
    """
    for _, head, key in _heads(model, "model"):
        loss = head.get("loss_cls") or ConfigDict()
        if key == THINGS and isinstance(loss.get("class_weight"), list):  # one weight a class, and one for none
            loss.class_weight = loss.class_weight[:1] * count + loss.class_weight[head[key] :]
        head[key] = count


def _heads(node: Any, at: str) -> Iterator[tuple[str, ConfigDict, str]]:
    """Heads for objects, those in lists and in models within the model too: where, and what their number is called."""
    named = [part for part in at.split(".") if not part.isdecimal()]
    for count in ("num_classes", THINGS) if isinstance(node, dict) else ():
        if type(node.get(count)) is int and (named[-1] in HEADS or count == THINGS):
            yield at, node, count
    children = enumerate(node) if isinstance(node, (list, tuple)) else node.items() if isinstance(node, dict) else ()
    for key, child in children:
        yield from _heads(child, f"{at}.{key}")
