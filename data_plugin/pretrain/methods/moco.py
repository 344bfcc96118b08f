"""MoCo v2 on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from lightly.models.modules.heads import BYOLProjectionHead, MoCoProjectionHead
from torch import Tensor
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.contrast import Contrast
from data_plugin.pretrain.methods.method import Method, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive, require_whole_batches


@dataclass(frozen=True)
class MoCoV2Settings(Settings):
    """Hyper-parameters of MoCo v2, by default those of the paper (Chen et al., 2020, arXiv:2003.04297).

    Args:
        queue: number of keys of earlier steps that serve as negatives; a multiple of the batch size.
        temperature: what similarities are divided by.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        batch_norm: whether a batch norm follows the hidden layer; MoCo v2 has none, but short runs collapse without.
        query_size: height and width of the query's view, as a part of the key's, which has the recipe's image size.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, 1 being the paper's.
        blur: probability of Gaussian blur.
    """

    queue: int = 65_536
    temperature: float = 0.2
    hidden: int = 2_048
    dim: int = 128
    batch_norm: bool = False
    query_size: float = 1.0
    crop: float = 0.2
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "queue", "temperature", "hidden", "dim", "query_size", "crop")

    def require_batch_size(self, batch_size: int) -> None:
        """See :meth:`Settings.require_batch_size`."""
        require_whole_batches(self.queue, batch_size)

    @property
    def views(self) -> tuple[View, View]:
        """Two views from the same distribution, save for their size."""
        key = View(self.crop, jitter(self.jitter, 0.4, 0.4, 0.4, 0.1), blur=self.blur)
        return replace(key, size=self.query_size), key


class MoCoV2(Method):
    """Momentum contrast with an MLP head (Chen et al., 2020, arXiv:2003.04297) in the form of DATA's Algorithm 1.

    The head is lightly's for MoCo or, with a batch norm after the hidden layer, the one for BYOL, behind
    :func:`with_sliced_entry`.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = MoCoV2Settings
    query_views: ClassVar[tuple[int, ...]] = (0,)
    key_views: ClassVar[tuple[int, ...]] = (1,)

    def __init__(self, features: int, settings: MoCoV2Settings) -> None:
        head = BYOLProjectionHead if settings.batch_norm else MoCoProjectionHead
        super().__init__(with_sliced_entry(head(features, settings.hidden, settings.dim)))
        self.settings = settings
        self.contrast = Contrast(settings.temperature, settings.queue, settings.dim)

    @property
    def views(self) -> Sequence[View]:
        """Two from the same distribution, save for their size; see :attr:`Method.views`."""
        return self.settings.views

    def targets(self, key_maps: Sequence[Tensor]) -> Tensor:
        """The keys (N, dim), of length 1."""
        (key_map,) = key_maps
        return F.normalize(precise(self.embed_key(key_map)), dim=1)

    def predictions(self, query_maps: Sequence[Tensor]) -> Tensor:
        """The queries (N, dim), of length 1."""
        (query_map,) = query_maps
        return F.normalize(precise(self.embed_query(query_map)), dim=1)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """InfoNCE of the queries against their own keys and those of other images."""
        return self.contrast(predictions, targets, targets)

    def imitation(self, predictions: Tensor, largest: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of two query networks' choices among the same keys, see :meth:`Contrast.imitation`."""
        return self.contrast.imitation(predictions, largest, targets, targets)

    def remember(self, targets: Tensor) -> None:
        """Enqueue the keys."""
        self.contrast.remember(targets)

    def health(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`."""
        return spread_and_matches(predictions, targets)


class SymmetricMoCoV2(MoCoV2):
    """MoCo v2 with both views through both branches, each once the query and once the key (Chen et al., 2021,
    arXiv:2104.02057, without its other changes): twice the work of a step.

    The queue takes in the key of the second view alone, as MoCo v2's does.
    """

    query_views = (0, 1)
    key_views = (1, 0)

    def targets(self, key_maps: Sequence[Tensor]) -> Tensor:
        """The keys (N, 2, dim), of length 1."""
        return torch.stack([super(SymmetricMoCoV2, self).targets([each]) for each in key_maps], dim=1)

    def predictions(self, query_maps: Sequence[Tensor]) -> Tensor:
        """The queries (N, 2, dim), of length 1."""
        return torch.stack([super(SymmetricMoCoV2, self).predictions([each]) for each in query_maps], dim=1)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """InfoNCE of each view's query against the other view's key and keys of other images."""
        return self.contrast(predictions, targets, targets[:, 0])

    def imitation(self, predictions: Tensor, largest: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`MoCoV2.imitation`."""
        return self.contrast.imitation(predictions, largest, targets, targets[:, 0])

    def remember(self, targets: Tensor) -> None:
        """Enqueue the second views' keys."""
        self.contrast.remember(targets[:, 0])

    def health(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`."""
        return spread_and_matches(predictions[:, 0], targets[:, 0])
