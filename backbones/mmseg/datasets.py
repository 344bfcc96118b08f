"""Data sets of MMSegmentation: where their images and labels are."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmengine.config import ConfigDict
from mmseg.registry import DATASETS

from data_plugin.backbones.openmmlab.config_file import leaves
from data_plugin.images.class_list import UNLABELLED
from data_plugin.utils.errors import UserError

with contextlib.redirect_stdout(io.StringIO()):  # importing them prints which others are left out
    from mmseg.datasets import BaseSegDataset as BaseSegDataset
    from mmseg.datasets import CityscapesDataset

CITYSCAPES_SUFFIXES = ("_leftImg8bit.png", "_leftImg8bit.jpg")
"""How images of Cityscapes end, and those of other data in its layout that are stored as JPEG."""

LABEL_SUFFIX = "_gtFine_labelTrainIds.png"
"""How label files of Cityscapes end."""


class OwnCityscapesDataset(CityscapesDataset):
    """Data in Cityscapes' layout with classes of its own, which ``metainfo`` has to name.

    Args:
        label_ids: the label in the files of every class, 0 to 254, in the order of the classes.
        ignored_ids: labels in the files that count as not labelled.
        options: those of MMSegmentation's data set.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}

    def __init__(self, label_ids: Sequence[int], ignored_ids: Sequence[int] = (), **options: Any) -> None:
        super().__init__(**{**options, "lazy_init": True})
        self.known_ids = {*label_ids, *ignored_ids}
        # A label that is not listed must not pass for the class of that number: MMSegmentation leaves it as it is.
        ignored = {*ignored_ids, *range(len(label_ids))} - set(label_ids)
        changed = {**dict.fromkeys(sorted(ignored), UNLABELLED), **{old: new for new, old in enumerate(label_ids)}}
        self.label_map = {old: new for old, new in changed.items() if old != new} or None
        self._metainfo["label_map"] = self.label_map
        if not options.get("lazy_init"):
            self.full_init()


def kind(leaf: ConfigDict) -> Any:
    """The class of a data set entry."""
    return leaf.type if isinstance(leaf.type, type) else DATASETS.get(leaf.type)


def is_cityscapes(leaf: ConfigDict) -> bool:
    """Whether a data set entry is MMSegmentation's Cityscapes, or ours for other classes in its layout."""
    return kind(leaf) in (CityscapesDataset, OwnCityscapesDataset)


def place(dataset: ConfigDict, data_root: Path | None) -> None:
    """Put the data root into every data set below ``dataset``, as an absolute path, and find Cityscapes' images.

    Args:
        dataset: a data set entry, wrapped or not; changed in place.
        data_root: the folder that the user gave; None keeps each data set's own.

    Raises:
        UserError: if the folder of the images is missing, or has no image of the data set's names.
    """
    for leaf in leaves(dataset):
        root = data_root or Path(leaf.get("data_root") or "")
        folder = root / (leaf.get("data_prefix") or {}).get("img_path", "")
        if "://" in str(root):
            continue
        leaf.data_root = f"{root.resolve()}/"
        if not folder.is_dir():
            raise UserError(
                f"{folder.absolute()} is missing; give --data-root the folder that holds {_layout(leaf)} as this "
                "config has them"
            )
        if is_cityscapes(leaf):
            leaf.img_suffix = _image_suffix(folder, leaf.get("img_suffix"))


def find_label_suffix(leaf: ConfigDict) -> None:
    """Let a Cityscapes data set read label files that end in another way than it says, if all of them do, and say so.

    Args:
        leaf: a data set entry in place; changed. One without label files stays as it is.

    Raises:
        UserError: if no kind of label file, or several that the config does not name, are there for all images.
    """
    root, prefix = Path(leaf.get("data_root") or ""), leaf.get("data_prefix") or {}
    images, labels = root / prefix.get("img_path", ""), root / prefix.get("seg_map_path", "")
    if not (images.is_dir() and labels.is_dir()):
        return
    suffix = leaf.get("seg_map_suffix", LABEL_SUFFIX)
    image_suffix = leaf.get("img_suffix", CITYSCAPES_SUFFIXES[0])
    stems = [str(path.relative_to(images)).removesuffix(image_suffix) for path in images.rglob(f"*{image_suffix}")]
    names = {str(path.relative_to(labels)) for path in labels.rglob("*.png")}
    if not stems or any(stem + suffix in names for stem in stems):
        return
    endings = {name.removeprefix(stems[0]) for name in names if name.startswith(stems[0])}
    found = sorted(ending for ending in endings if all(stem + ending in names for stem in stems))
    if len(found) != 1:
        raise UserError(
            f"{labels} has {'several kinds of label files' if found else 'no label files'} for the images of {images}"
            f"{': they end in ' + ', '.join(found) if found else ''}; expected files that end in {suffix}, or one kind "
            "of .png for all images"
        )
    warnings.warn(f"{labels} holds label files that end in {found[0]}, where the config has {suffix}", stacklevel=3)
    leaf.seg_map_suffix = found[0]


def unlabelled(leaf: ConfigDict, pipeline: Sequence[Any]) -> ConfigDict:
    """A data set entry that gives every image of ``leaf``, through ``pipeline`` and without labels."""
    return ConfigDict({**leaf, "pipeline": pipeline, "test_mode": True})


def _image_suffix(folder: Path, suffix: str | None) -> str:
    wanted = CITYSCAPES_SUFFIXES if suffix in (None, *CITYSCAPES_SUFFIXES) else (suffix,)
    found = [each for each in wanted if next(folder.rglob(f"*{each}"), None)]
    if len(found) != 1:
        raise UserError(
            f"{folder} has {'several kinds of images' if found else 'no image'} whose name ends in "
            f"{' or '.join(wanted)}; expected images in Cityscapes' layout, of one kind"
        )
    if found[0] != CITYSCAPES_SUFFIXES[0]:
        warnings.warn(f"{folder} holds images that end in {found[0]}, where Cityscapes has .png", stacklevel=3)
    return found[0]


def _layout(leaf: ConfigDict) -> str:
    prefixes = {str(prefix).split("/")[0] for prefix in (leaf.get("data_prefix") or {}).values() if prefix}
    return " and ".join(sorted(prefixes)) or "the images"
