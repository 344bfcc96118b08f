"""SimSiam on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.method import Method, pooled, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive


@dataclass(frozen=True)
class SimSiamSettings(Settings):
    """Hyper-parameters of SimSiam, by default those of the paper (Chen and He, 2021, arXiv:2011.10566).

    Args:
        hidden: width of the projection head's hidden layers.
        dim: width of the projection and the prediction.
        predictor_hidden: width of the prediction head's hidden layer.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, 1 being the paper's.
        blur: probability of Gaussian blur.
    """

    hidden: int = 2_048
    dim: int = 2_048
    predictor_hidden: int = 512
    crop: float = 0.2
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "hidden", "dim", "predictor_hidden", "crop")


class Siamese(NamedTuple):
    """What a query network makes of a view.

    Args:
        projection: (N, dim).
        prediction: what the predictor makes of it, (N, dim).
    """

    projection: Tensor
    prediction: Tensor


class SimSiam(Method):
    """Simple siamese networks (Chen and He, 2021, arXiv:2011.10566), each query network by itself.

    Both views pass through the query branch; from each the predictor has to tell the other's projection, which no
    gradient flows to. The key branch, which follows as an average, has no part in it. All query networks share the
    predictor.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = SimSiamSettings
    query_views = (0, 1)
    key_views = ()

    def __init__(self, features: int, settings: SimSiamSettings) -> None:
        super().__init__(with_sliced_entry(SimSiamProjectionHead(features, settings.hidden, settings.dim)))
        self.settings = settings
        self.predictor = SimSiamPredictionHead(settings.dim, settings.predictor_hidden, settings.dim)
        self.similarity = NegativeCosineSimilarity()

    @property
    def views(self) -> Sequence[View]:
        """Two from MoCo v2's distribution; see :attr:`Method.views`."""
        settings = self.settings
        view = View(settings.crop, jitter(settings.jitter, 0.4, 0.4, 0.4, 0.1), blur=settings.blur)
        return view, view

    def targets(self, key_maps: Sequence[Tensor]) -> None:
        """None: the views are compared with each other."""

    def predictions(self, query_maps: Sequence[Tensor]) -> list[Siamese]:
        """Projection and prediction of each view."""
        projections = [self.query_head(pooled(query_map)) for query_map in query_maps]
        return [Siamese(precise(each), precise(self.predictor(each))) for each in projections]

    def embed_query(self, query_map: Tensor) -> Tensor:
        """What the predictor makes of the projection; see :meth:`Method.embed_query`."""
        return self.predictor(super().embed_query(query_map))

    def loss(self, predictions: list[Siamese], targets: None) -> Tensor:
        """Half of each view's negative cosine of its prediction with the other's projection (Eq. 2 and 4)."""
        first, second = predictions
        ahead = self.similarity(first.prediction, second.projection.detach())
        back = self.similarity(second.prediction, first.projection.detach())
        return (ahead + back) / 2

    def health(self, predictions: list[Siamese], targets: None) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`, for predictions from the first view."""
        first, second = predictions
        return spread_and_matches(F.normalize(first.prediction, dim=1), F.normalize(second.projection, dim=1))

    def heads(self) -> dict[str, Tensor]:
        """See :meth:`Method.heads`; the predictor's weights are ``predictor.*``."""
        predictor = {f"predictor.{name}": value for name, value in self.predictor.state_dict().items()}
        return super().heads() | predictor
