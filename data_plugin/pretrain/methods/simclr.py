"""SimCLR on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.method import Method, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive


@dataclass(frozen=True)
class SimCLRSettings(Settings):
    """Hyper-parameters of SimCLR, by default those of the paper (Chen et al., 2020, arXiv:2002.05709).

    Args:
        temperature: what similarities are divided by.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        batch_norm: whether batch norms follow the head's layers; SimCore has none.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, 1 being the paper's.
        blur: probability of Gaussian blur.
    """

    temperature: float = 0.1
    hidden: int = 2_048
    dim: int = 128
    batch_norm: bool = True
    crop: float = 0.08
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "temperature", "hidden", "dim", "crop")


class SimCLR(Method):
    """A simple framework for contrastive learning (Chen et al., 2020, arXiv:2002.05709), each query network by itself.

    Both views pass through the query branch, which learns to find an image's other view among all views of the batch,
    of all processes. The key branch, which follows as an average, has no part in it.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = SimCLRSettings
    query_views = (0, 1)
    key_views = ()

    def __init__(self, features: int, settings: SimCLRSettings) -> None:
        head = SimCLRProjectionHead(features, settings.hidden, settings.dim, batch_norm=settings.batch_norm)
        super().__init__(with_sliced_entry(head))
        self.settings = settings
        self.contrast = NTXentLoss(settings.temperature, gather_distributed=True)

    @property
    def views(self) -> Sequence[View]:
        """Two from the same distribution; see :attr:`Method.views`."""
        settings = self.settings
        view = View(settings.crop, jitter(settings.jitter, 0.8, 0.8, 0.8, 0.2), blur=settings.blur)
        return view, view

    def targets(self, key_maps: Sequence[Tensor]) -> None:
        """None: the views are compared with each other."""

    def predictions(self, query_maps: Sequence[Tensor]) -> list[Tensor]:
        """The projection (N, dim) of each view."""
        return [precise(self.embed_query(query_map)) for query_map in query_maps]

    def loss(self, predictions: list[Tensor], targets: None) -> Tensor:
        """The cross-entropy of each view's choice among all others, the other one of its image being right (Eq. 1)."""
        return self.contrast(*predictions)

    def health(self, predictions: list[Tensor], targets: None) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`, for the two views."""
        first, second = (F.normalize(each, dim=1) for each in predictions)
        return spread_and_matches(first, second)
