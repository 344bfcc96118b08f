"""A config's training images as search wants them: test-time preprocessing, fixed order, no labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from data_plugin.backbones.mmdet.voc import unlabelled
from data_plugin.backbones.openmmlab.config import leaves
from data_plugin.backbones.openmmlab.images import LoadedImages, inference_pipeline, load_images


def image_batches(config: Config, count: int | None, batch_size: int, seed: int) -> LoadedImages:
    """The config's training images through its test-time pipeline and its model's data preprocessor, unlabelled.

    Args:
        config: the config.
        count: draw this many images, reproducibly; None takes all.
        batch_size: images per batch.
        seed: seed of the draw.

    Returns:
        The batches, in the order of the data sets; images are read while iterating.

    Raises:
        UserError: if ``count`` or ``batch_size`` is below 1; while iterating, naming an image that cannot be read.
    """
    pipeline = inference_pipeline(config)
    entries = [unlabelled(leaf, pipeline) for leaf in leaves(config.train_dataloader.dataset)]
    with DefaultScope.overwrite_default_scope("mmdet"):
        preprocessor = MODELS.build(config.model.get("data_preprocessor") or {"type": "DetDataPreprocessor"})

    def preprocess(batch: Mapping[str, Any]) -> Tensor:
        return preprocessor(batch, False)["inputs"]

    return load_images(config, entries, "mmdet", preprocess, count, batch_size, seed)
