"""ReSSL on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightly.models.modules.heads import BYOLProjectionHead, MoCoProjectionHead
from torch import Tensor
from torch.nn import functional as F

from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.key_queue import KeyQueue
from data_plugin.pretrain.methods.method import Method, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive, require_whole_batches


@dataclass(frozen=True)
class ReSSLSettings(Settings):
    """Hyper-parameters of ReSSL, by default those of the paper (Zheng et al., 2021, arXiv:2107.09282).

    Args:
        queue: number of keys of earlier steps that an image is related to; a multiple of the batch size.
        student_temperature: what the query branch's similarities are divided by.
        teacher_temperature: what the key branch's similarities are divided by; lower is sharper.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        batch_norm: whether a batch norm follows the hidden layer; the authors' release has none.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the query view's colour jitter, 1 being the paper's; the key view has none.
        blur: probability of Gaussian blur in the query view.
    """

    queue: int = 131_072
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    hidden: int = 4_096
    dim: int = 512
    batch_norm: bool = False
    crop: float = 0.2
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "queue", "student_temperature", "teacher_temperature", "hidden", "dim", "crop")

    def require_batch_size(self, batch_size: int) -> None:
        """See :meth:`Settings.require_batch_size`."""
        require_whole_batches(self.queue, batch_size)


class ReSSL(Method):
    """Relational self-supervised learning (Zheng et al., 2021, arXiv:2107.09282) in the form of DATA's Algorithm 1.

    The key branch sees a weakly augmented view (crop and flip) and says which earlier images it resembles; the query
    networks see a strongly augmented one and have to agree.

    Args:
        features: channels of the largest network's C5.
        settings: hyper-parameters.
    """

    settings_class = ReSSLSettings
    query_views = (0,)
    key_views = (1,)

    def __init__(self, features: int, settings: ReSSLSettings) -> None:
        head = BYOLProjectionHead if settings.batch_norm else MoCoProjectionHead
        super().__init__(with_sliced_entry(head(features, settings.hidden, settings.dim)))
        self.settings = settings
        self.queue = KeyQueue(settings.queue, settings.dim)

    @property
    def views(self) -> Sequence[View]:
        """A strong and a weak one; see :attr:`Method.views`."""
        settings = self.settings
        return (
            View(settings.crop, jitter(settings.jitter, 0.4, 0.4, 0.4, 0.1), blur=settings.blur),
            View(settings.crop, jitter_probability=0.0, grey=0.0, blur=0.0),
        )

    def targets(self, key_maps: Sequence[Tensor]) -> Tensor:
        """The keys (N, dim), of length 1."""
        (key_map,) = key_maps
        return F.normalize(precise(self.embed_key(key_map)), dim=1)

    def predictions(self, query_maps: Sequence[Tensor]) -> Tensor:
        """The queries (N, dim), of length 1."""
        (query_map,) = query_maps
        return F.normalize(precise(self.embed_query(query_map)), dim=1)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the two branches' distributions over other images (Eq. 3 to 5)."""
        similar = F.softmax(self.queue.similarities(targets, targets) / self.settings.teacher_temperature, dim=1)
        logits = self.queue.similarities(predictions, targets) / self.settings.student_temperature
        return F.cross_entropy(logits, similar)

    def remember(self, targets: Tensor) -> None:
        """Enqueue the keys."""
        self.queue.enqueue(targets)

    def health(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`."""
        return spread_and_matches(predictions, targets)
