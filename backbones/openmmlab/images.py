"""A config's training images as search wants them: through test-time preprocessing, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from torch.utils.data import ConcatDataset

from data_plugin.backbones.openmmlab.config_file import leaves
from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.images.endings import beside
from data_plugin.images.image_files import Images
from data_plugin.utils.errors import UserError


class Indexed(Protocol):
    """Images through their pipelines, by index; one that cannot be read in full is a :class:`UserError`."""

    def __getitem__(self, index: int) -> Any: ...


class OpenMMLabImages(ImageSource):
    """Images through a pipeline and a model's data preprocessor.

    Args:
        images: gives each image through its pipeline, by index.
        names: what identifies each.
        preprocessor: settings of the model's data preprocessor, which normalises an image and may pad it.
        scope: the framework's registry scope.
        workers: processes that read images.
    """

    def __init__(
        self,
        images: Indexed,
        names: Sequence[str],
        preprocessor: ConfigDict,
        scope: str,
        workers: int,
    ) -> None:
        with DefaultScope.overwrite_default_scope(scope):
            self._preprocessor = MODELS.build(preprocessor)
        self._images = images
        super().__init__(names, workers)

    def __getitem__(self, index: int) -> LoadedImage:
        batch = pseudo_collate([self._images[index]])
        height, width = batch["data_samples"][0].img_shape[:2]
        return LoadedImage(self._preprocessor(batch, False)["inputs"][0], (height, width))


class OfDataSets:
    """All images of some data sets.

    Args:
        entries: data set entries without labels, each with its pipeline.
        scope: the framework's registry scope.

    Attributes:
        paths: the images' files.
    """

    def __init__(self, entries: Sequence[ConfigDict], scope: str) -> None:
        with DefaultScope.overwrite_default_scope(scope):
            parts = [_data_set(entry) for entry in entries]
        self.paths = [_path(part, index) for part in parts for index in range(len(part))]
        self._images: ConcatDataset[Any] = ConcatDataset(parts)

    def __getitem__(self, index: int) -> Any:
        """What its data set's pipeline makes of an image."""
        _require_readable(self.paths[index])
        return self._images[index]


class OfNoDataSet:
    """Images that are in no data set, through a pipeline.

    Args:
        images: the images.
        pipeline: the steps.
        scope: the framework's registry scope.
    """

    def __init__(self, images: Images, pipeline: Sequence[ConfigDict], scope: str) -> None:
        with DefaultScope.overwrite_default_scope(scope):
            self._steps = Compose(pipeline)
        self._images = images

    def __getitem__(self, index: int) -> Any:
        """What the pipeline makes of a file; a data set's entry would tell it the same of an image."""
        with self._images.file(index) as path:
            _require_readable(path)
            return self._steps({"img_path": str(path), "img_id": index})


def inference_pipeline(config: Config) -> list[ConfigDict]:
    """The steps of the config's test pipeline without labels, telling each image's path and size."""
    steps = leaves(config.test_dataloader.dataset)[0].pipeline
    return [_with_names(step) for step in steps if "Annotations" not in str(step.type)]


def _with_names(step: ConfigDict) -> ConfigDict:
    if "meta_keys" not in step:
        return step
    return ConfigDict({**step, "meta_keys": tuple(dict.fromkeys((*step.meta_keys, "img_path", "img_shape")))})


def _data_set(entry: ConfigDict) -> Any:
    try:
        return DATASETS.build(entry)
    except ValueError as error:  # of what is no JSON or no text, and does not say where
        raise ValueError(f"{entry.get('data_root', '')}{entry.get('ann_file', '')}: {error}") from error


def _path(images: Any, index: int) -> Path:
    found = images.get_data_info(index).get("img_path")
    if found is None:
        raise UserError(f"the training data set {type(images).__name__} holds videos; expected one of single images")
    return Path(found)


def _require_readable(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"the image {path} is missing{beside(path)}")
    # OpenCV, which most pipelines read with, fills the missing part of a truncated file with grey.
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({said}); replace or remove it") from error
