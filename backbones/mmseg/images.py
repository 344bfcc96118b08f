"""A config's training images as search wants them: test-time preprocessing, fixed order, no labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from data_plugin.backbones.mmseg.datasets import unlabelled
from data_plugin.backbones.openmmlab.config import leaves
from data_plugin.backbones.openmmlab.images import LoadedImages, inference_pipeline, load_images


def image_batches(config: Config, count: int | None, batch_size: int, seed: int) -> LoadedImages:
    """The config's training images through its test-time pipeline and its model's data preprocessor, unlabelled.

    Images are whole, as in evaluation with ``test_cfg.mode="whole"``; those of several sizes in a batch are padded.

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
    with DefaultScope.overwrite_default_scope("mmseg"):
        preprocessor = MODELS.build(config.model.get("data_preprocessor") or {"type": "SegDataPreProcessor"})

    def preprocess_one(image: Tensor, sample: Any) -> Tensor:
        return preprocessor({"inputs": [image], "data_samples": [sample]}, False)["inputs"]

    def preprocess(batch: Mapping[str, Any]) -> Tensor:
        # MMSegmentation tests image by image and refuses a batch of several sizes.
        images = list(map(preprocess_one, batch["inputs"], batch["data_samples"]))
        height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
        return torch.cat([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])

    return load_images(config, entries, "mmseg", preprocess, count, batch_size, seed)
