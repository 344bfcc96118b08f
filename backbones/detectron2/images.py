"""The training images of a config as its model sees them, without labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from PIL import Image
from torch import nn

from data_plugin.backbones.detectron2.datasets import Record
from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.utils.errors import UserError


class ModelInputs(ImageSource):
    """Images through detectron2's mapper for testing, normalised and padded by the config's model itself.

    Args:
        cfg: the config.
        names: what identifies each image.
        file: gives an image's file by its index, for the time of a ``with``.
    """

    def __init__(self, cfg: CfgNode, names: Sequence[str], file: Callable[[int], AbstractContextManager[Path]]) -> None:
        workers = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
        super().__init__(names, workers)
        self._file = file
        self._mapper = DatasetMapper(cfg, is_train=False)
        self._model = _without_weights(cfg)

    def __getitem__(self, index: int) -> LoadedImage:
        """See :meth:`ImageSource.__getitem__`."""
        with self._file(index) as file:
            return self._load(file)

    def _load(self, file: Path) -> LoadedImage:
        _require_8_bits(file)
        try:
            item = self._mapper({"file_name": str(file)})
        except Exception as error:
            reason = _why_unreadable(file)
            if reason is None:
                raise
            raise UserError(f"the image {file} cannot be read ({reason}); replace or remove it") from error
        with torch.no_grad():
            images = _preprocess(self._model, [item])
        ((height, width),) = images.image_sizes
        return LoadedImage(images.tensor[0], (int(height), int(width)))


def _without_weights(cfg: CfgNode) -> nn.Module:
    """The config's model for its preprocessing alone, which has no use for weights."""
    shape_only = cfg.clone()
    shape_only.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(shape_only).eval()
    for name, values in (("pixel_mean", cfg.MODEL.PIXEL_MEAN), ("pixel_std", cfg.MODEL.PIXEL_STD)):
        setattr(model, name, torch.tensor(values).view(-1, 1, 1))
    return model


def _preprocess(model: Any, inputs: Sequence[Record]) -> ImageList:
    """What a model does to its images first; ``SemanticSegmentor`` has no function of its own for it."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(inputs)
    images = [(item["image"].to(model.device) - model.pixel_mean) / model.pixel_std for item in inputs]
    backbone = model.backbone
    return ImageList.from_tensors(images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints)


def _require_8_bits(file: Path) -> None:
    # detectron2 reads with Pillow, which cuts what is above 255: grey images of more bits become white.
    try:
        with Image.open(file) as image:
            mode = image.mode
    except Exception:  # the mapper says what is wrong
        return
    if mode[0] in "IF":
        raise UserError(
            f"the image {file} has more than 8 bits a pixel (Pillow's mode {mode}), which detectron2 would turn white; "
            "convert it to 8 bits, or remove it"
        )


def _why_unreadable(file: Path) -> str | None:
    """Why an image cannot be decoded, in one line; None if it can."""
    try:
        with Image.open(file) as image:
            image.load()
    except Exception as error:  # malformed bytes make Pillow's decoders raise almost anything
        return " ".join(str(error).split()) or type(error).__name__
    return None
