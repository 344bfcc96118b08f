"""A config's training images as search wants them: test-time preprocessing, fixed order, no labels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Sampler

from data_plugin.backbones.openmmlab.config import leaves
from data_plugin.images.batch import ImageBatch
from data_plugin.utils.errors import UserError

Preprocess = Callable[[Mapping[str, Any]], Tensor]
"""Makes normalised images (N, 3, H, W), padded at the right and bottom, of a batch as the loader collates it."""


class LoadedImages:
    """Batches of the framework's loader after the model's own data preprocessor.

    Args:
        images: the data set; gives a sentence in place of an image that cannot be read.
        parts: which images are in which batch; all but the last have the same number.
        workers: processes that read.
        preprocess: the model's preprocessing at test time.
    """

    def __init__(self, images: Dataset, parts: Sequence[Sequence[int]], workers: int, preprocess: Preprocess) -> None:
        self._images = images
        self._parts = parts
        self._workers = workers
        self._preprocess = preprocess

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._parts)

    def only(self, indices: Sequence[int]) -> LoadedImages:
        """Some of the batches, by ascending index."""
        return LoadedImages(self._images, [self._parts[i] for i in indices], self._workers, self._preprocess)

    def __iter__(self) -> Iterator[ImageBatch]:
        """The batches from the start.

        Raises:
            UserError: naming the first image that cannot be read.
        """
        if not self._parts:
            return
        order = [index for part in self._parts for index in part]
        loader = Runner.build_dataloader(
            {
                "dataset": self._images,
                "batch_size": len(self._parts[0]),
                # The framework's samplers would divide and pad by the number of ranks, which search does itself.
                "sampler": _InOrder(order),
                "num_workers": self._workers,
                "collate_fn": _collate,
            }
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(batch)
            samples = [sample.metainfo for sample in batch["data_samples"]]
            yield ImageBatch(
                images=self._preprocess(batch),
                sizes=[tuple(sample["img_shape"][:2]) for sample in samples],
                names=[os.path.basename(sample["img_path"]) for sample in samples],
            )


def load_images(
    config: Config,
    entries: Sequence[ConfigDict],
    scope: str,
    preprocess: Preprocess,
    count: int | None,
    batch_size: int,
    seed: int,
) -> LoadedImages:
    """The images of data sets, in their order.

    Args:
        config: the config, for its number of worker processes at test time.
        entries: data set entries without labels.
        scope: the framework's registry scope.
        preprocess: the model's preprocessing at test time.
        count: draw this many images, reproducibly; None takes all.
        batch_size: images per batch.
        seed: seed of the draw.

    Returns:
        The batches; images are read while iterating.

    Raises:
        UserError: if ``count`` or ``batch_size`` is below 1; while iterating, naming an image that cannot be read.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    with DefaultScope.overwrite_default_scope(scope):
        images = _ReadableImages(ConcatDataset([DATASETS.build(entry) for entry in entries]))
    order = _draw(len(images), count, seed)
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return LoadedImages(images, parts, config.test_dataloader.get("num_workers", 0), preprocess)


def inference_pipeline(config: Config) -> list[ConfigDict]:
    """The steps of the config's test pipeline without labels, telling each image's path and size."""
    steps = leaves(config.test_dataloader.dataset)[0].pipeline
    return [_with_names(step) for step in steps if "Annotations" not in str(step.type)]


class _InOrder(Sampler[int]):
    """The given images, in that order."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def _with_names(step: ConfigDict) -> ConfigDict:
    if "meta_keys" not in step:
        return step
    return ConfigDict({**step, "meta_keys": tuple(dict.fromkeys((*step.meta_keys, "img_path", "img_shape")))})


def _draw(available: int, count: int | None, seed: int) -> list[int]:
    if count is not None and count > available:
        warnings.warn(f"{count} images were asked for, but the data set has {available}: all are taken", stacklevel=4)
    if count is None or count >= available:
        return list(range(available))
    return np.sort(np.random.default_rng(seed).choice(available, size=count, replace=False)).tolist()


class _ReadableImages(Dataset):
    """Gives a sentence in place of an image that cannot be read, since exceptions lose their text between processes."""

    def __init__(self, images: ConcatDataset) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        path = self._path(index)
        try:
            # OpenCV, which most pipelines read with, fills the missing part of a truncated file with grey.
            with Image.open(path) as image:
                image.load()
            return self._images[index]
        except Exception as error:
            return (
                f"{path} cannot be read as an image ({str(error).splitlines()[0]}); replace it or take it off its list"
            )

    def _path(self, index: int) -> str:
        part = int(np.searchsorted(self._images.cumulative_sizes, index, side="right"))
        start = self._images.cumulative_sizes[part - 1] if part else 0
        return self._images.datasets[part].get_data_info(index - start)["img_path"]  # type: ignore[attr-defined]


def _collate(samples: Sequence[Any]) -> Any:
    unreadable = (sample for sample in samples if isinstance(sample, str))
    return next(unreadable, None) or pseudo_collate(samples)
