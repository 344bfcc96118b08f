"""MoCo v2 on a supernet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import BYOLProjectionHead, MoCoProjectionHead
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.transforms.moco_transform import MoCoV2Transform
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor
from torch.nn import functional as F

from data_plugin.input_format import InputFormat
from data_plugin.pretrain.method import Method, with_sliced_entry
from data_plugin.pretrain.recipe import MoCoV2Settings
from data_plugin.pretrain.views import Transform


class KeyQueue(MemoryBankModule):
    """A queue of keys that is read as often as wanted and written by :meth:`enqueue` alone.

    lightly's loss writes to its memory bank whenever it is called: three query networks a step would enqueue the same
    keys three times, and the second and third would meet their own positives among the negatives. Also unlike there,
    the queue is part of the state dict, so that a checkpoint holds it.

    Args:
        size: number of keys.
        dim: length of a key.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size=(size, dim))
        self.register_buffer("bank", self.bank)
        self.register_buffer("bank_ptr", self.bank_ptr)

    def forward(
        self, output: Tensor, labels: Tensor | None = None, update: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``output`` as it is, and all keys (dim, size); the other arguments are lightly's and mean nothing here."""
        del labels, update
        return super().forward(output, update=False)

    def enqueue(self, keys: Tensor) -> None:
        """Put normalised keys (N, dim) in the place of the oldest."""
        self._dequeue_and_enqueue(keys)


class MoCoV2(Method):
    """Momentum contrast with an MLP head (Chen et al., 2020, arXiv:2003.04297) in the form of DATA's Algorithm 1.

    The head is lightly's for MoCo or, with a batch norm after the hidden layer, the one for BYOL, behind
    :func:`with_sliced_entry`.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    name = "mocov2"
    query_views = (0,)
    key_views = (1,)

    def __init__(self, features: int, settings: MoCoV2Settings) -> None:
        head = BYOLProjectionHead if settings.batch_norm else MoCoProjectionHead
        super().__init__(with_sliced_entry(head(features, settings.hidden, settings.dim)))
        self.settings = settings
        self.contrast = NTXentLoss(settings.temperature)
        self.contrast.memory_bank = KeyQueue(settings.queue, settings.dim)

    @property
    def queue(self) -> KeyQueue:
        """Keys of earlier steps."""
        queue = self.contrast.memory_bank
        assert isinstance(queue, KeyQueue)
        return queue

    def transform(self, image_size: int, input_format: InputFormat) -> Transform:
        """Two views from the same distribution; see :meth:`Method.transform`."""
        settings = self.settings
        transform = MoCoV2Transform(
            input_size=image_size,
            cj_strength=settings.jitter,
            min_scale=settings.crop,
            gaussian_blur=settings.blur,
            normalize={
                "mean": [value / 255 for value in input_format.mean],
                "std": [value / 255 for value in input_format.std],
            },
        )
        return cast(Transform, transform)

    def targets(self, key_maps: Sequence[Tensor]) -> Tensor:
        """The keys (N, dim), of length 1."""
        (key_map,) = key_maps
        return F.normalize(self.key_head(_pooled(key_map)), dim=1)

    def predictions(self, query_maps: Sequence[Tensor]) -> Tensor:
        """The queries (N, dim), of length 1."""
        (query_map,) = query_maps
        return F.normalize(self.query_head(_pooled(query_map)), dim=1)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """InfoNCE of the queries against their own keys and the queue."""
        return self.contrast(predictions, targets)

    def remember(self, targets: Tensor) -> None:
        """Enqueue the keys."""
        self.queue.enqueue(targets)

    def health(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Spread of the keys, and how often a query finds its key.

        The loss alone misleads: while the key branch moves fast, positives differ from the older keys in the queue
        whatever the image, so it falls without anything being learnt and rises again as the learning rate falls.

        Returns:
            ``key_std``: the keys' standard deviation per dimension, times sqrt(dim); 1 is spread evenly, 0 collapsed.
            ``matched``: part of the queries whose own key is the most similar one of the batch; chance is 1 / N. Mean
            colours alone match a good part where the jitter is weak, so compare it between runs on the same views only.
        """
        nearest = (predictions @ targets.T).argmax(dim=1)
        return {
            "key_std": std_of_l2_normalized(targets) * math.sqrt(targets.shape[1]),
            "matched": (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean(),
        }


def _pooled(feature_map: Tensor) -> Tensor:
    return feature_map.mean(dim=(2, 3))
