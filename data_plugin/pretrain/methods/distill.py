"""Distillation from a strong frozen teacher on a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from lightly.models.modules.heads import BYOLProjectionHead
from lightly.utils import dist
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.backbones.sliced import SlicedLinear
from data_plugin.pretrain.augmentation import View, jitter
from data_plugin.pretrain.methods.key_queue import KeyQueue
from data_plugin.pretrain.methods.method import Method, pooled, precise, spread_and_matches, with_sliced_entry
from data_plugin.pretrain.methods.settings import Settings, require_positive, require_whole_batches
from data_plugin.pretrain.teacher import FORMS, FrozenTeacher, TeacherInput, load_teacher
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class DistillSettings(Settings):
    """Hyper-parameters of distillation.

    Args:
        teacher: the frozen network, see :func:`load_teacher`.
        teacher_weights: a file of its weights, instead of those that its source publishes.
        teacher_saw_labels: whether it was trained with labels. The supernet's file says so; there is no default.
        teacher_size: height and width of its images in pixels, where its source does not tell; 0 is what that tells.
        teacher_mean: its normalisation, per channel (RGB, 0 to 255), where its source does not tell.
        teacher_std: the other half of it.
        keep: for how many images its answers are remembered, see :class:`FrozenTeacher`.
        queue: number of teacher embeddings of earlier steps that an image is related to; a multiple of the batch size.
        temperature: what similarities are divided by, the teacher's and the students'.
        hidden: width of the projection head's hidden layer.
        dim: channels of the teacher's maps that are learnt, see :class:`FrozenTeacher`, and width of the projection.
        whole: weight of the loss of whole images.
        cells: weight of the loss of the cells of C4, and of that of C5.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, which the teacher does not see.
        blur: probability of Gaussian blur.
    """

    teacher: str = ""
    teacher_weights: str = ""
    teacher_saw_labels: bool | None = None
    teacher_size: int = 0
    teacher_mean: list[float] = field(default_factory=list)
    teacher_std: list[float] = field(default_factory=list)
    keep: int = 0
    queue: int = 2_048
    temperature: float = 0.05
    hidden: int = 2_048
    dim: int = 256
    whole: float = 1.0
    cells: float = 4.0
    crop: float = 0.2
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "queue", "temperature", "hidden", "dim", "crop")
        if not self.teacher:
            raise UserError(f"distillation needs a teacher; give settings.teacher, {FORMS}")
        if self.teacher_saw_labels is None:
            raise UserError(
                f"nothing says whether the teacher {self.teacher!r} was trained with labels, which the supernet's file "
                "has to say; give settings.teacher_saw_labels=true or false"
            )
        told = (bool(self.teacher_size), len(self.teacher_mean) == 3, len(self.teacher_std) == 3)
        if any((self.teacher_size, self.teacher_mean, self.teacher_std)) and not all(told):
            raise UserError(
                f"the teacher's input is settings.teacher_size={self.teacher_size}, settings.teacher_mean="
                f"{self.teacher_mean}, settings.teacher_std={self.teacher_std}; expected all of it: a size in pixels, "
                "and three numbers (0 to 255) each"
            )
        if any(value <= 0 for value in self.teacher_std):
            raise UserError(f"settings.teacher_std is {self.teacher_std}; expected numbers above 0")

    def require_batch_size(self, batch_size: int) -> None:
        """See :meth:`Settings.require_batch_size`."""
        require_whole_batches(self.queue, batch_size)


class Student(NamedTuple):
    """What a query network makes of some views.

    Args:
        whole: projection of its pooled C5 (N, dim), of length 1.
        cells: projections of C4 and C5, each (N, dim, H, W).
    """

    whole: Tensor
    cells: list[Tensor]


class Taught(NamedTuple):
    """What the teacher says of what the views show.

    Args:
        keys: the mean of its centred map (N, dim), of length 1.
        cells: its centred map (N, dim, h, w).
    """

    keys: Tensor
    cells: Tensor


class Distill(Method):
    """A supernet learns the features of a frozen network of any kind, in the form of DATA's Algorithm 1.

    Whole images: the student has to resemble the same earlier images as the teacher does (SEED, Fang et al., 2021,
    arXiv:2101.04731; over earlier images alone, as in ReSSL). Cells: through a 1x1 convolution, the student's C4 and C5
    point where the teacher's map points at the same place of the image. The teacher's map is centred by its mean over
    all cells so far, else all directions are alike.

    Args:
        features: channels of the largest network's C5, at least as many as those of its C4.
        settings: hyper-parameters.
    """

    settings_class = DistillSettings
    query_views = (0,)
    key_views = (0,)
    query_taps = (2, 3)

    centre: Tensor
    centred_on: Tensor

    def __init__(self, features: int, settings: DistillSettings) -> None:
        # C4 is narrower than C5, and a sliced layer takes as many channels as there are.
        cells = {name: SlicedLinear(features, settings.dim) for name in ("c4", "c5")}
        whole = with_sliced_entry(BYOLProjectionHead(features, settings.hidden, settings.dim))
        super().__init__(nn.ModuleDict({"whole": whole, **cells}))
        self.settings = settings
        self.queue = KeyQueue(settings.queue, settings.dim)
        self.register_buffer("centre", torch.zeros(settings.dim))
        self.register_buffer("centred_on", torch.tensor(0))

    @property
    def views(self) -> Sequence[View]:
        """The students'; see :attr:`Method.views`."""
        settings = self.settings
        return (View(settings.crop, jitter(settings.jitter, 0.4, 0.4, 0.4, 0.1), blur=settings.blur),)

    def open_teacher(self, folder: Path) -> FrozenTeacher:
        """See :meth:`Method.open_teacher`."""
        settings = self.settings
        told = TeacherInput(settings.teacher_size, settings.teacher_mean, settings.teacher_std)
        network, given = load_teacher(settings.teacher, settings.teacher_weights, told if told.size else None)
        return FrozenTeacher(network, given, settings.dim, settings.keep, folder)

    def targets(self, key_maps: Sequence[Tensor]) -> Taught:
        """What the teacher says, centred."""
        (cells,) = key_maps
        self._update_centre(cells)
        cells = cells - self.centre.view(1, -1, 1, 1)
        return Taught(F.normalize(pooled(cells), dim=1), cells)

    def predictions(self, query_maps: Sequence[Tensor]) -> Student:
        """The projections."""
        whole = F.normalize(precise(self.embed_query(query_maps[1])), dim=1)
        cells = zip(("c4", "c5"), query_maps, strict=True)
        return Student(whole, [precise(_at_cells(self.query_head[name], each)) for name, each in cells])  # type: ignore[index]

    def embed_query(self, query_map: Tensor) -> Tensor:
        """The whole image's projection; see :meth:`Method.embed_query`."""
        return self.query_head["whole"](pooled(query_map))  # type: ignore[index]

    def embed_key(self, key_map: Tensor) -> Tensor:
        """The whole image's projection; see :meth:`Method.embed_key`."""
        return self.key_head["whole"](pooled(key_map))  # type: ignore[index]

    def loss(self, predictions: Student, targets: Taught) -> Tensor:
        """Cross-entropy of the relations to other images (SEED, Eq. 4 and 5), and one less the cosine at every cell."""
        settings = self.settings
        similar = F.softmax(self.queue.similarities(targets.keys, targets.keys) / settings.temperature, dim=1)
        logits = self.queue.similarities(predictions.whole, targets.keys) / settings.temperature
        loss = settings.whole * F.cross_entropy(logits, similar)
        for cells in predictions.cells:
            taught = F.interpolate(targets.cells, cells.shape[2:], mode="bilinear", antialias=True)
            loss = loss + settings.cells * (1 - F.cosine_similarity(cells, taught, dim=1).mean())
        return loss

    def remember(self, targets: Taught) -> None:
        """Enqueue the teacher's embeddings."""
        self.queue.enqueue(targets.keys)

    def health(self, predictions: Student, targets: Taught) -> Mapping[str, Tensor]:
        """See :func:`spread_and_matches`, for the whole images."""
        return spread_and_matches(predictions.whole, targets.keys)

    def _update_centre(self, cells: Tensor) -> None:
        self.centred_on += 1
        mean = cells.mean(dim=(0, 2, 3))
        if dist.world_size() > 1:
            mean = torch.stack(list(dist.gather(mean))).mean(dim=0)
        self.centre += (mean - self.centre) / self.centred_on


def _at_cells(layer: nn.Module, feature_map: Tensor) -> Tensor:
    """A linear layer as a 1x1 convolution."""
    cells = feature_map.permute(0, 2, 3, 1)
    return layer(cells.flatten(0, 2)).unflatten(0, cells.shape[:3]).permute(0, 3, 1, 2)
