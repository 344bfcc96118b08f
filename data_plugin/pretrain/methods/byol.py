"""BYOL on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.method import Method, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive


@dataclass(frozen=True)
class BYOLSettings(Settings):
    """Hyper-parameters of BYOL, by default those of the paper (Grill et al., 2020, arXiv:2006.07733, appendices B, J).

    Args:
        hidden: width of the hidden layers of the projection and the prediction head.
        dim: width of the projection and the prediction.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, 1 being the paper's.
        blur: probability of Gaussian blur in the first view.
        blur_2: probability of Gaussian blur in the second view.
        solarize: probability of solarization in the second view.
    """

    hidden: int = 4_096
    dim: int = 256
    crop: float = 0.08
    jitter: float = 1.0
    blur: float = 1.0
    blur_2: float = 0.1
    solarize: float = 0.2

    def __post_init__(self) -> None:
        require_positive(self, "hidden", "dim", "crop")


class BYOL(Method):
    """Bootstrap your own latent (Grill et al., 2020, arXiv:2006.07733) in the form of DATA's Algorithm 1.

    Both views pass through both branches. The predictor belongs to the query branch alone, and all query networks
    share it: it reads projections, which have the same width whatever the network.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = BYOLSettings
    query_views = (0, 1)
    key_views = (0, 1)

    def __init__(self, features: int, settings: BYOLSettings) -> None:
        super().__init__(with_sliced_entry(BYOLProjectionHead(features, settings.hidden, settings.dim)))
        self.settings = settings
        self.predictor = BYOLPredictionHead(settings.dim, settings.hidden, settings.dim)
        self.similarity = NegativeCosineSimilarity()

    @property
    def views(self) -> Sequence[View]:
        """The paper's two distributions; see :attr:`Method.views`."""
        settings = self.settings
        changes = jitter(settings.jitter, 0.4, 0.4, 0.2, 0.1)
        return (
            View(settings.crop, changes, blur=settings.blur),
            View(settings.crop, changes, blur=settings.blur_2, solarize=settings.solarize),
        )

    def targets(self, key_maps: Sequence[Tensor]) -> list[Tensor]:
        """The key branch's projection (N, dim) of each view."""
        return [precise(self.embed_key(key_map)) for key_map in key_maps]

    def predictions(self, query_maps: Sequence[Tensor]) -> list[Tensor]:
        """For each view, what the predictor makes of its projection (N, dim)."""
        return [precise(self.embed_query(query_map)) for query_map in query_maps]

    def embed_query(self, query_map: Tensor) -> Tensor:
        """What the predictor makes of the projection; see :meth:`Method.embed_query`."""
        return self.predictor(super().embed_query(query_map))

    def loss(self, predictions: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Squared distance of the normalised prediction of each view to the target of the other, summed (Eq. 2)."""
        first, second = predictions
        first_target, second_target = targets
        return 4 + 2 * self.similarity(first, second_target) + 2 * self.similarity(second, first_target)

    def health(self, predictions: list[Tensor], targets: list[Tensor]) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`, for predictions from the first view."""
        return spread_and_matches(F.normalize(predictions[0], dim=1), F.normalize(targets[1], dim=1))

    def heads(self) -> dict[str, Tensor]:
        """See :meth:`Method.heads`; the predictor's weights are ``predictor.*``."""
        predictor = {f"predictor.{name}": value for name, value in self.predictor.state_dict().items()}
        return super().heads() | predictor
