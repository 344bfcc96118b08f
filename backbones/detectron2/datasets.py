"""Data sets of a config: where they are, and their images, for which no labels are read."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.data.datasets.cityscapes import load_cityscapes_instances

from data_plugin.frameworks.framework_config import DEMO
from data_plugin.images.coco import listed_images
from data_plugin.images.endings import beside
from data_plugin.images.image_folder import ImageFolder
from data_plugin.images.voc import VOCSplit, voc_root
from data_plugin.utils.errors import UserError

Record = dict[str, Any]
"""One image as detectron2's data sets, loaders and models describe it."""

Kind = TypeVar("Kind", bound="DataSet")

OWN_FILE = "own_json_file"
"""The metadata of ours that names the file of a COCO data set with classes of its own, which has no ``json_file``."""

VARIABLE = "DETECTRON2_DATASETS"
"""The environment variable that says where detectron2's catalogs have their data sets."""

_PICKED_BY = "DATASETS.TRAIN and DATASETS.TEST pick one, as voc_2007_val does VOC2007's val.txt"

_VOC = re.compile(r"voc_(2007|2012)_(\w+)")
_COCO = re.compile(r"(keypoints_)?coco_(2014|2017)_(train|val|val_100|minival|valminusminival)")
_CITYSCAPES = re.compile(r"cityscapes_fine_instance_seg_(train|val)")


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set whose images can be found without its labels.

    Args:
        name: its name in detectron2's catalogs.
        folder: where its images are.
    """

    name: str
    folder: Path

    @abstractmethod
    def images(self) -> list[Path]:
        """The files that its list names, or that its folder holds.

        Raises:
            UserError: if the list cannot be read.
        """

    @abstractmethod
    def register(self) -> None:
        """Let detectron2's catalogs have the data set here."""


@dataclass(frozen=True)
class VOC(DataSet):
    """A split of PASCAL VOC; ``folder`` is that of a year, such as ``VOC2007``."""

    split: str

    @property
    def listed(self) -> VOCSplit:
        """What ``ImageSets/Main`` lists."""
        return VOCSplit.named(self.folder, self.split, _PICKED_BY)

    def images(self) -> list[Path]:
        """The photographs that ``ImageSets/Main`` lists."""
        return [self.listed.photograph(name) for name in self.listed.names]

    def register(self) -> None:
        """See :meth:`DataSet.register`."""
        _forget(self.name)
        register_pascal_voc(self.name, str(self.folder), self.split, int(self.folder.name.removeprefix("VOC")))
        MetadataCatalog.get(self.name).evaluator_type = "pascal_voc"


@dataclass(frozen=True)
class COCO(DataSet):
    """Images that a file in COCO's format describes."""

    json_file: Path

    @property
    def is_of_keypoints(self) -> bool:
        """Whether it labels people's keypoints, so that its class is the person alone."""
        return self.name.startswith("keypoints_")

    def images(self) -> list[Path]:
        """The images that the file lists; where there is no such file, all of the folder, with a warning."""
        if not self.json_file.is_file():
            images = _all_images(self.folder)
            warnings.warn(
                f"{self.json_file} is missing: all {len(images)} images of {self.folder} are taken", stacklevel=3
            )
            return images
        return [self.folder / name for name in listed_images(self.json_file)]

    def register(self) -> None:
        """See :meth:`DataSet.register`; the categories are those of the file, which holds none of keypoints."""
        metadata = MetadataCatalog.get(self.name).as_dict()
        _forget(self.name)
        kept = {field: value for field, value in metadata.items() if field.startswith("keypoint_")}
        register_coco_instances(self.name, kept, str(self.json_file), str(self.folder))


@dataclass(frozen=True)
class Cityscapes(DataSet):
    """A split of Cityscapes with fine labels; ``folder`` is below ``leftImg8bit``."""

    labels: Path

    def images(self) -> list[Path]:
        """The images of all cities."""
        return _all_images(self.folder)

    def register(self) -> None:
        """See :meth:`DataSet.register`."""
        images, labels = str(self.folder), str(self.labels)
        kept = {**MetadataCatalog.get(self.name).as_dict(), "image_dir": images, "gt_dir": labels}
        _forget(self.name)
        DatasetCatalog.register(self.name, partial(load_cityscapes_instances, images, labels))
        MetadataCatalog.get(self.name).set(**{field: value for field, value in kept.items() if field != "name"})


@contextlib.contextmanager
def registered(data_sets: Sequence[DataSet]) -> Iterator[None]:
    """For the time of a ``with``, let detectron2's catalogs have data sets where a data root has them.

    Afterwards a config without a data root finds those again that it would have found before.

    Args:
        data_sets: the data sets.
    """
    names = {each.name for each in data_sets}
    before = [(catalog, {**catalog.data}) for catalog in (DatasetCatalog, MetadataCatalog)]
    try:
        for each in data_sets:
            each.register()
        yield
    finally:
        for catalog, entries in before:
            for name in names:
                catalog.data.pop(name, None)
            catalog.data.update({name: entry for name, entry in entries.items() if name in names})


def below(data_root: Path, cfg: CfgNode) -> list[DataSet]:
    """The VOC, COCO and Cityscapes data sets of a config below a folder; ``DETECTRON2_DATASETS`` is for all others.

    ``DATASETS.TRAIN`` loses the VOC data sets of absent years, see :func:`leave_out_absent_years`. Labels, and the data
    sets of ``DATASETS.TEST``, may be missing.

    Args:
        data_root: the folder that holds ``VOC2007`` or ``VOC2012``; that holds ``annotations`` and the folders of
            images (or a folder ``coco`` with them); or that holds ``leftImg8bit`` and ``gtFine`` (or a folder
            ``cityscapes`` with them).
        cfg: the config, which is changed.

    Raises:
        UserError: if the folder is missing or of another layout, lacks the images of a data set to train on, or the
            config uses other data sets.
    """
    names = tuple(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    found = _placed(names, data_root.resolve())
    other = set(names) - {each.name for each in found}
    if other:
        raise UserError(
            f"a data root can be given for VOC, COCO and Cityscapes' instance data sets, but the config uses "
            f"{min(other)!r}; set the environment variable {VARIABLE} instead"
        )
    leave_out_absent_years(cfg, found)
    for each in found:
        if each.name in cfg.DATASETS.TRAIN and not each.folder.is_dir():
            others = each.listed.others if isinstance(each, VOC) else ""
            raise UserError(f"{each.folder} is missing, which the data set {each.name} needs{others}")
    return found


def leave_out_absent_years(cfg: CfgNode, placed: Sequence[DataSet] = ()) -> None:
    """Take the VOC data sets of a year that is not there out of ``DATASETS.TRAIN``, loudly, as long as one remains.

    Args:
        cfg: the config; changed.
        placed: those of its data sets that are elsewhere than detectron2's catalogs say.
    """
    absent = [voc for voc in data_sets_of(VOC, cfg, placed) if not voc.folder.is_dir()]
    names = [voc.name for voc in absent if voc.name in cfg.DATASETS.TRAIN]
    remaining = tuple(name for name in cfg.DATASETS.TRAIN if name not in names)
    if names and remaining:
        folders = ", ".join(voc.folder.name for voc in absent if voc.name in names)
        warnings.warn(
            f"TRAINING DATA IS NOT THE RECIPE'S: {absent[0].folder.parent.absolute()} has no {folders}, so training "
            f"uses {', '.join(remaining)} alone, without {', '.join(names)}",
            stacklevel=3,
        )
        cfg.DATASETS.TRAIN = remaining


def image_files(names: Sequence[str], placed: Sequence[DataSet]) -> list[Path]:
    """The images of data sets, all of which are there; labels are needed for none that is VOC, COCO or Cityscapes.

    Args:
        names: the data sets' names.
        placed: those of them that are elsewhere than detectron2's catalogs say.

    Raises:
        UserError: if there is none, or naming the first file or folder that is missing or damaged.
    """
    if not names:
        raise UserError("the config names no data set; set DATASETS.TRAIN and DATASETS.TEST")
    by_name = {each.name: each for each in placed}
    return [image for name in names for image in _image_files(name, by_name.get(name) or catalogued(name))]


def where(name: str, placed: Sequence[DataSet]) -> str:
    """A data set's name and, where that is known, the folder of its images.

    Args:
        name: the data set.
        placed: those that are elsewhere than detectron2's catalogs say.
    """
    found = next((each for each in placed if each.name == name), None) or catalogued(name)
    return name if found is None else f"{name} in {found.folder.absolute()}"


def catalogued(name: str) -> DataSet | None:
    """A data set where detectron2's catalogs say that it is; None if it is none of VOC, COCO and Cityscapes.

    Raises:
        UserError: if the catalogs have none of that name.
    """
    _require_known(name)
    metadata = MetadataCatalog.get(name)
    if _VOC.fullmatch(name) and "dirname" in metadata.as_dict():  # not someone's own data set of such a name
        return VOC(name, Path(metadata.dirname), metadata.split)
    json_file = metadata.get(OWN_FILE) or metadata.get("json_file")
    if _COCO.fullmatch(name) and json_file and "image_root" in metadata.as_dict():
        return COCO(name, Path(metadata.image_root), Path(json_file))
    if _CITYSCAPES.fullmatch(name):
        return Cityscapes(name, Path(metadata.image_dir), Path(metadata.gt_dir))
    return None


def data_sets_of(kind: type[Kind], cfg: CfgNode, placed: Sequence[DataSet] = ()) -> list[Kind]:
    """The data sets of a kind that a config names and detectron2 knows.

    Args:
        kind: such as :class:`VOC`.
        cfg: the config.
        placed: those of its data sets that are elsewhere than detectron2's catalogs say.
    """
    by_name = {each.name: each for each in placed}
    names = dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    found = (by_name.get(name) or catalogued(name) for name in names if name in by_name or name in DatasetCatalog)
    return [each for each in found if isinstance(each, kind)]


def read_records(name: str) -> list[Record]:
    """What detectron2's catalogs hold of a data set, with its labels.

    Raises:
        UserError: if it is unknown, its files are not there, or they cannot be read.
    """
    _require_known(name)
    metadata = MetadataCatalog.get(name)
    for field in ("dirname", "json_file", OWN_FILE, "image_root", "image_dir", "gt_dir"):
        if path := metadata.get(field):
            _require_there(Path(path), name)
    try:
        return DatasetCatalog.get(name)
    except ImportError as error:
        raise UserError(f"the data set {name} needs a package that is not installed: {error}") from error
    except (LookupError, ValueError, TypeError, AssertionError, AttributeError, OSError) as error:
        reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        source = metadata.get(OWN_FILE) or metadata.get("json_file", metadata.get("image_dir", "its files"))
        raise UserError(f"the data set {name} cannot be read from {source}: {reason}") from error


def require_images(images: Sequence[Path], name: str) -> None:
    """Check that the images of a data set are there.

    Raises:
        UserError: if there is none, or naming the first that is missing.
    """
    missing = next((image for image in images if not image.is_file()), None)
    if missing is not None:
        raise UserError(f"the image {missing} of the data set {name} is missing{beside(missing)}")
    if not images:
        raise UserError(f"the data set {name} has no images")


def _image_files(name: str, data_set: DataSet | None) -> list[Path]:
    if data_set is None:
        images = [Path(record["file_name"]) for record in read_records(name)]
    else:
        _require_there(data_set.folder, name)
        images = data_set.images()
    require_images(images, name)
    return images


def _placed(names: Sequence[str], data_root: Path) -> list[DataSet]:
    """Those of some data sets that are VOC, COCO or Cityscapes, where a folder would hold them."""
    finders = {_VOC: _voc_below, _COCO: _coco_below, _CITYSCAPES: _cityscapes_below}
    matching = {find: [name for name in names if pattern.fullmatch(name)] for pattern, find in finders.items()}
    return [each for find, some in matching.items() if some for each in find(some, data_root)]


def _voc_below(names: Sequence[str], data_root: Path) -> list[DataSet]:
    root = voc_root(data_root)
    years_and_splits = [(name, *name.split("_", maxsplit=2)[1:]) for name in names]
    return [VOC(name, root / f"VOC{year}", split) for name, year, split in years_and_splits]


def _coco_below(names: Sequence[str], data_root: Path) -> list[DataSet]:
    if not data_root.is_dir():
        raise UserError(f"the data root {data_root} is not a folder; give the one that holds COCO's annotations folder")
    sources = [source for name in names if isinstance(source := catalogued(name), COCO)]
    parts = ["annotations", *(source.folder.name for source in sources)]
    roots = (data_root, data_root / "coco")
    root = next((each for each in roots if any((each / part).is_dir() for part in parts)), None)
    if root is None:
        raise UserError(
            f"the data root {data_root} is not in COCO layout; expected annotations/instances_train2017.json, "
            "train2017 and so on in it or in its coco folder"
        )
    return [
        COCO(source.name, root / source.folder.name, root / "annotations" / source.json_file.name) for source in sources
    ]


def _cityscapes_below(names: Sequence[str], data_root: Path) -> list[DataSet]:
    roots = (data_root, data_root / "cityscapes")
    root = next((each for each in roots if (each / "leftImg8bit").is_dir()), None)
    if root is None:
        raise UserError(
            f"the data root {data_root} is not in Cityscapes' layout; expected leftImg8bit and gtFine in it"
        )
    splits = {name: name.rpartition("_")[2] for name in names}
    return [Cityscapes(name, root / "leftImg8bit" / split, root / "gtFine" / split) for name, split in splits.items()]


def _all_images(folder: Path) -> list[Path]:
    return [folder / name for name in ImageFolder(folder).names]


def _require_there(path: Path, name: str) -> None:
    if path.exists():
        return
    value = os.environ.get(VARIABLE)
    looked = f"{VARIABLE} is {value}" if value else f"{VARIABLE} is not set, and detectron2 then looks below datasets"
    fix = f"give --data-root the folder of the data set, set {VARIABLE} to the one above it, or {DEMO}"
    with contextlib.suppress(UserError):
        if value and all(each.folder.is_dir() for each in _placed([name], Path(value).expanduser())):
            fix = f"the images are right below that folder: give it as --data-root {value}"
    raise UserError(f"{path.absolute()} of the data set {name} is missing; {looked}; {fix}")


def _require_known(name: str) -> None:
    if name not in DatasetCatalog:
        raise UserError(f"{name!r} is not a data set that detectron2 knows; register it, or change DATASETS")


def _forget(name: str) -> None:
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
