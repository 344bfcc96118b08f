"""DenseCL on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightly.models.modules.heads import BYOLProjectionHead, DenseCLProjectionHead
from lightly.models.utils import select_most_similar
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View
from data_plugin.pretrain.methods.contrast import Contrast
from data_plugin.pretrain.methods.method import Method, pooled, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.moco import MoCoV2Settings
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class DenseCLSettings(MoCoV2Settings):
    """Hyper-parameters of DenseCL, by default those of the paper (Wang et al., 2021, arXiv:2011.09157).

    Args, beside those of :class:`MoCoV2Settings`, which hold for the dense head and its queue too:
        dense: part of the dense loss in the sum, from 0 to 1; the global one has the rest.
    """

    dense: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dense <= 1:
            raise UserError(f"the dense loss's part is {self.dense}; expected 0 to 1")


class Dense(NamedTuple):
    """What a branch makes of some images.

    Args:
        whole: projection of the pooled features (N, dim), of length 1.
        cells: projections of the feature map's cells (N, H * W, dim).
        features: the feature map's cells (N, H * W, C).
    """

    whole: Tensor
    cells: Tensor
    features: Tensor

    @property
    def pooled_cells(self) -> Tensor:
        """What an image's cells are remembered by (N, dim), of length 1."""
        return F.normalize(self.cells.mean(dim=1), dim=1)


class DenseCL(Method):
    """Dense contrastive learning (Wang et al., 2021, arXiv:2011.09157) in the form of DATA's Algorithm 1.

    Beside MoCo v2's loss, every cell of the query's C5 has to find the cell of the key's C5 that resembles it most
    among pooled keys of earlier images. Which cell that is, is decided by the backbones' features; where the query
    network is narrower than the key branch, by the first channels, which are those that the two share.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = DenseCLSettings
    query_views = (0,)
    key_views = (1,)

    def __init__(self, features: int, settings: DenseCLSettings) -> None:
        head = BYOLProjectionHead if settings.batch_norm else DenseCLProjectionHead
        super().__init__(
            nn.ModuleDict(
                {name: with_sliced_entry(head(features, settings.hidden, settings.dim)) for name in ("whole", "cells")}
            )
        )
        self.settings = settings
        self.contrast = Contrast(settings.temperature, settings.queue, settings.dim)
        self.dense_contrast = Contrast(settings.temperature, settings.queue, settings.dim)

    @property
    def views(self) -> Sequence[View]:
        """MoCo v2's; see :attr:`Method.views`."""
        return self.settings.views

    def targets(self, key_maps: Sequence[Tensor]) -> Dense:
        """Keys of images and cells."""
        (key_map,) = key_maps
        return self._project(self.key_head, key_map)

    def predictions(self, query_maps: Sequence[Tensor]) -> Dense:
        """Queries of images and cells."""
        (query_map,) = query_maps
        return self._project(self.query_head, query_map)

    def embed_query(self, query_map: Tensor) -> Tensor:
        """The whole image's projection; see :meth:`Method.embed_query`."""
        return self.query_head["whole"](pooled(query_map))  # type: ignore[index]

    def embed_key(self, key_map: Tensor) -> Tensor:
        """The whole image's projection; see :meth:`Method.embed_key`."""
        return self.key_head["whole"](pooled(key_map))  # type: ignore[index]

    def loss(self, predictions: Dense, targets: Dense) -> Tensor:
        """The weighted sum of the global and the dense InfoNCE (Eq. 3)."""
        shared = targets.features[..., : predictions.features.shape[-1]]
        matching = select_most_similar(predictions.features, shared, targets.cells)
        dense = self.dense_contrast(predictions.cells, matching, targets.pooled_cells)
        whole = self.contrast(predictions.whole, targets.whole, targets.whole)
        return (1 - self.settings.dense) * whole + self.settings.dense * dense

    def remember(self, targets: Dense) -> None:
        """Enqueue the keys of the images, and those that their pooled cells give."""
        self.contrast.remember(targets.whole)
        self.dense_contrast.remember(targets.pooled_cells)

    def health(self, predictions: Dense, targets: Dense) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`, for the whole images."""
        return spread_and_matches(predictions.whole, targets.whole)

    def _project(self, heads: nn.Module, feature_map: Tensor) -> Dense:
        cells = feature_map.flatten(2).transpose(1, 2)
        projected = precise(heads["cells"](cells.flatten(0, 1)))  # type: ignore[index]
        whole = precise(heads["whole"](pooled(feature_map)))  # type: ignore[index]
        return Dense(F.normalize(whole, dim=1), projected.unflatten(0, cells.shape[:2]), precise(cells.detach()))
