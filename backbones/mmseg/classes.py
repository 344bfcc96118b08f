"""The classes of a config's data sets in Cityscapes' layout, and of the heads that learn them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from data_plugin.backbones.mmseg.datasets import OwnCityscapesDataset, find_label_suffix, is_cityscapes
from data_plugin.backbones.mmseg.heads import set_classes
from data_plugin.backbones.openmmlab.config_file import LOADERS, leaves
from data_plugin.images.class_list import CLASS_LIST, read_class_list
from data_plugin.images.class_names import check_names, some
from data_plugin.utils.errors import UserError


def find_classes(config: Config, given: Sequence[str] | None) -> None:
    """Give Cityscapes data sets whose root holds a ``classes.txt`` its classes, and all heads their number.

    Their label files may end in another way than the config says, if all do; a warning says so.

    Args:
        config: the config, its data sets in place; changed.
        given: the classes, in order: some of those that the file lists, or where there is no file those of the labels
            0 and up. None takes those that ``metainfo`` names, else those of the file, else MMSegmentation's.

    Raises:
        UserError: if the file cannot be read or lacks one of the classes, data sets have different files, classes are
            given for data sets of another kind, or a head weights its classes.
    """
    every = [leaf for loader in LOADERS for leaf in leaves(config[loader].dataset)]
    entries = [leaf for leaf in every if is_cityscapes(leaf)]
    if given is not None:
        check_names(given)
        if not entries:
            raise UserError(
                f"the classes {some(given)} are given, but they can be named for CityscapesDataset alone, and the "
                f"config has {' and '.join(sorted({str(leaf.type) for leaf in every}))}"
            )
    file = _class_list(entries)
    if file is not None:
        named = _named_by_config(entries) if given is None else given
        chosen = _chosen(file, read_class_list(file), named)
    elif given is not None:
        chosen = _chosen("the config", _listed_by_config(entries) or dict(enumerate(given)), given)
    else:
        return
    for leaf in entries:
        leaf.type = OwnCityscapesDataset.__name__
        leaf.update(chosen)
        find_label_suffix(leaf)
    set_classes(config.model, len(chosen["label_ids"]))


def _class_list(entries: Sequence[ConfigDict]) -> Path | None:
    paths = dict.fromkeys(Path(leaf.get("data_root") or "") / CLASS_LIST for leaf in entries)
    found = [path for path in paths if path.is_file()]
    if found and len({tuple(read_class_list(path).items()) if path.is_file() else () for path in paths}) > 1:
        raise UserError(f"the data sets {' and '.join(str(path.parent) for path in paths)} need the same {CLASS_LIST}")
    return found[0] if found else None


def _named_by_config(entries: Sequence[ConfigDict]) -> Sequence[str] | None:
    return next((leaf.metainfo.classes for leaf in entries if (leaf.get("metainfo") or {}).get("classes")), None)


def _listed_by_config(entries: Sequence[ConfigDict]) -> dict[int, str]:
    """The classes of a config of ours by their labels in the files; none where there are none."""
    return next(
        (dict(zip(leaf.label_ids, leaf.metainfo.classes, strict=True)) for leaf in entries if leaf.get("label_ids")), {}
    )


def _chosen(source: Path | str, listed: Mapping[int, str], named: Sequence[str] | None) -> dict[str, Any]:
    """What a data set entry says of its classes: their names, the label of each in the files, and what is left out."""
    label_of = {name: label for label, name in listed.items()}
    classes = tuple(label_of) if named is None else tuple(named)
    absent = [name for name in classes if name not in label_of]
    if absent:
        raise UserError(
            f"{source} lists no class {absent[0]!r}, which is one of the classes {some(classes)}; expected classes "
            f"that it lists ({some(label_of)}), or give --classes"
        )
    left_out = [name for name in label_of if name not in classes]
    if left_out:
        warnings.warn(
            f"pixels of the classes {some(left_out)} of {source} are none of the classes {some(classes)}: they count "
            "as not labelled",
            stacklevel=4,
        )
    return {
        "metainfo": ConfigDict(classes=classes),
        "label_ids": tuple(label_of[name] for name in classes),
        "ignored_ids": tuple(label_of[name] for name in left_out),
    }
