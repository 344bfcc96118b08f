"""The training images of a config as its model sees them, without labels."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn
from torch.utils.data import SequentialSampler

from data_plugin.backbones.detectron2.datasets import Record, require_data_sets
from data_plugin.backbones.detectron2.device import on_available_device
from data_plugin.images.batch import ImageBatch, ImageBatches
from data_plugin.utils.errors import UserError

_UNREADABLE = "unreadable"


def image_batches(config: CfgNode, count: int | None, batch_size: int, seed: int) -> ImageBatches:
    """Images of ``DATASETS.TRAIN``; see :meth:`data_plugin.frameworks.framework.Adapter.image_batches`.

    Every process of a distributed run gets all of them.

    Raises:
        UserError: if ``count`` or ``batch_size`` is below 1 or a data set is missing or damaged; while iterating, if
            an image cannot be read.
    """
    if batch_size < 1 or (count is not None and count < 1):
        raise UserError(f"{count} images in batches of {batch_size} were asked for; expected 1 of each at least")
    records = [record for part in require_data_sets(config.DATASETS.TRAIN).values() for record in part]
    if count is not None and count > len(records):
        warnings.warn(f"{count} images were asked for, the data set has {len(records)}: all are used", stacklevel=2)
    elif count is not None:
        chosen = random.Random(seed).sample(range(len(records)), count)
        records = [records[index] for index in sorted(chosen)]
    parts = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    return _ModelInputs(config, build_model(on_available_device(config)).eval(), parts)


class _ModelInputs:
    """Images through detectron2's mapper and loader for testing, normalised and padded by the model itself."""

    def __init__(self, cfg: CfgNode, model: nn.Module, parts: Sequence[Sequence[Record]]) -> None:
        self.cfg = cfg
        self.model: Any = model
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def only(self, indices: Sequence[int]) -> _ModelInputs:
        return _ModelInputs(self.cfg, self.model, [self.parts[index] for index in indices])

    def __iter__(self) -> Iterator[ImageBatch]:
        if not self.parts:
            return
        records = [record for part in self.parts for record in part]
        loader = build_detection_test_loader(
            records,
            mapper=_naming_unreadable(DatasetMapper(self.cfg, is_train=False)),
            # The default sampler gives every process of a distributed run a part.
            sampler=SequentialSampler(records),
            # Only the last batch of a data set can be smaller, so the boundaries stay where they are.
            batch_size=len(self.parts[0]),
            num_workers=min(self.cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1),
        )
        for inputs in loader:
            for item in inputs:
                if _UNREADABLE in item:
                    raise UserError(item[_UNREADABLE])
            with torch.no_grad():
                images = _preprocess(self.model, inputs)
            sizes = [(int(height), int(width)) for height, width in images.image_sizes]
            yield ImageBatch(images.tensor, sizes, [Path(item["file_name"]).name for item in inputs])


def _preprocess(model: Any, inputs: Sequence[Record]) -> ImageList:
    """What a model does to its images first; ``SemanticSegmentor`` has no function of its own for it."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(inputs)
    images = [(item["image"].to(model.device) - model.pixel_mean) / model.pixel_std for item in inputs]
    backbone = model.backbone
    return ImageList.from_tensors(images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints)


def _naming_unreadable(mapper: Callable[[Record], Record]) -> Callable[[Record], Record]:
    """Let a mapper report an unreadable image in its result, since an exception of a worker loses its message."""

    def read(record: Record) -> Record:
        try:
            return mapper(record)
        except (OSError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())
            return {_UNREADABLE: f"the image {record['file_name']} cannot be read ({reason}); replace or remove it"}

    return read
