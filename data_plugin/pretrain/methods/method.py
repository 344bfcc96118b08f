"""What the training loop asks of a self-supervised method."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightly.models.modules.heads import ProjectionHead
from lightly.utils.debug import std_of_l2_normalized
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from data_plugin.backbones.sliced import SlicedLinear
from data_plugin.pretrain.augmentation import View
from data_plugin.pretrain.methods.settings import Settings
from data_plugin.pretrain.teacher import FrozenTeacher


class Method(nn.Module, ABC):
    """A self-supervised method: its views, heads, loss and memory. Backbones, steps and averages are the loop's.

    In a step the loop gives the key branch's feature maps to :meth:`targets`, without gradient, then each query
    network's feature maps to :meth:`predictions` and these to :meth:`loss`, and at last calls :meth:`remember`, once.
    Where sub-nets are trained, each on a part of the batch, it does so for every part.
    It averages ``key_head`` as it averages the key backbone. Query networks differ in width, so what reads their
    feature maps has to take the first channels of a wider input (:func:`with_sliced_entry`).

    A method of your own is a subclass whose constructor takes ``(features, settings)``, the channels of the largest
    network's C5 and a ``settings_class``; a recipe names it by ``method = "module:class"``. Under several processes
    each sees its part of the batch: what :meth:`remember` keeps has to be gathered from all (as ``KeyQueue`` does),
    batch norms in heads are synchronised by the loop, or the keys' images shuffled over the processes, and what
    :meth:`targets` returned then put back by :meth:`reordered`. A ``KeyQueue`` is read in :meth:`loss`, where the
    recipe's negatives may have put ``BatchKeys`` in its place.

    Args:
        query_head: the head of the query branch; the key branch gets a copy.

    Attributes:
        settings_class: its hyper-parameters.
        query_views: which views the query branch sees.
        key_views: which views the key branch sees, or a frozen teacher in its place.
        query_taps: which feature maps of a query network its predictions read, 0 to 3 for C2 to C5.
    """

    settings_class: ClassVar[type[Settings]]
    query_views: ClassVar[tuple[int, ...]]
    key_views: ClassVar[tuple[int, ...]]
    query_taps: ClassVar[tuple[int, ...]] = (3,)

    query_head: nn.Module
    key_head: nn.Module

    def __init__(self, query_head: nn.Module) -> None:
        super().__init__()
        self.query_head = query_head
        self.key_head = copy.deepcopy(query_head).requires_grad_(False)

    @property
    @abstractmethod
    def views(self) -> Sequence[View]:
        """The distributions of an image's views, which the numbers in the two attributes mean."""

    @abstractmethod
    def targets(self, key_maps: Sequence[Tensor]) -> Any:
        """What the query networks shall predict.

        Args:
            key_maps: the key branch's C5 (N, C, H, W) for each of :attr:`key_views`.
        """

    @abstractmethod
    def predictions(self, query_maps: Sequence[Tensor]) -> Any:
        """What one query network predicts.

        Args:
            query_maps: for each of :attr:`query_views` each of :attr:`query_taps`, (N, C, H, W), C at most the largest
                network's.
        """

    @abstractmethod
    def loss(self, predictions: Any, targets: Any) -> Tensor:
        """How far one query network is from the step's targets: a number, averaged over the images."""

    def imitation(self, predictions: Any, largest: Any, targets: Any) -> Tensor:
        """How far one query network is from the largest query network of the same step, whose gradient stays out of it.

        A method may leave this out; recipes with ``guide = "largest"`` are then refused.

        Args:
            predictions: the network's.
            largest: those of the largest.
            targets: the step's targets.
        """
        raise NotImplementedError

    def open_teacher(self, folder: Path) -> FrozenTeacher | None:
        """A frozen network in the key branch's place, whose maps :meth:`targets` then gets; None leaves it the key
        branch, which is averaged in either case.

        Args:
            folder: where it may keep what it said of this training's images, a folder of this process alone.
        """
        del folder
        return None

    def embed_query(self, query_map: Tensor) -> Tensor:
        """The student's z (N, dim) of DATA's Eq. 3, which is to be like the teacher's.

        Args:
            query_map: a query network's C5 (N, C, H, W), C at most the largest network's.
        """
        return self.query_head(pooled(query_map))

    def embed_key(self, key_map: Tensor) -> Tensor:
        """The teacher's z (N, dim) of DATA's Eq. 3.

        Args:
            key_map: the key branch's C5 (N, C, H, W).
        """
        return self.key_head(pooled(key_map))

    def remember(self, targets: Any) -> None:
        """Keep what later steps need of this one, once all its losses are computed."""
        del targets

    def reordered(self, targets: Any, reorder: Callable[[Tensor], Tensor]) -> Any:
        """The targets of the same images in another order.

        Here every tensor in them is taken to be (N, ...), with an entry for each image; a method with others overrides.

        Args:
            targets: what :meth:`targets` returned: a tensor, or lists, tuples or mappings of them.
            reorder: brings the images of a tensor (N, ...) into the other order, together with all processes.
        """
        return apply_to_collection(targets, Tensor, reorder)

    def health(self, predictions: Any, targets: Any) -> Mapping[str, Tensor]:
        """Numbers to log beside the loss: whether features collapse, whether the largest network learns."""
        del predictions, targets
        return {}

    def heads(self) -> dict[str, Tensor]:
        """The weights that a supernet file keeps: ``query.*`` and ``key.*``."""
        return {
            f"{branch}.{name}": value
            for branch, head in (("query", self.query_head), ("key", self.key_head))
            for name, value in head.state_dict().items()
        }


def with_sliced_entry(head: ProjectionHead) -> ProjectionHead:
    """Let one of lightly's heads take any number of first features.

    The weights of the first layer are those for the widest C5. A narrower network's C5 is the first channels of that
    one, so it uses the first columns of the weights, as its convolutions use the first channels of theirs. All later
    layers are shared whole.

    Args:
        head: a head for the widest network; its first layer is replaced.
    """
    entry = head.layers[0]
    assert isinstance(entry, nn.Linear)
    head.layers[0] = SlicedLinear(entry.in_features, entry.out_features, bias=entry.bias is not None)
    return head


def pooled(feature_map: Tensor) -> Tensor:
    """The mean (N, C) over the positions of a feature map (N, C, H, W)."""
    return feature_map.mean(dim=(2, 3))


def precise(x: Tensor) -> Tensor:
    """``x`` in single precision where it is in half, for what is normalised, summed or exponentiated."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def spread_and_matches(queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Whether features collapse, and how often a query finds its key.

    A contrastive loss alone misleads: while the key branch moves fast, positives differ from the older keys in a queue
    whatever the image, so it falls without anything being learnt and rises again as the learning rate falls.

    Args:
        queries: (N, dim), of length 1.
        keys: those of the same images, (N, dim), of length 1.

    Returns:
        ``key_std``: the keys' standard deviation per dimension, times sqrt(dim); 1 is spread evenly, 0 collapsed.
        ``matched``: part of the queries whose own key is the most similar one of the batch; chance is 1 / N. Mean
        colours alone match a good part where the jitter is weak, so compare it between runs on the same views only.
    """
    nearest = (queries @ keys.T).argmax(dim=1)
    return {
        "key_std": std_of_l2_normalized(keys) * math.sqrt(keys.shape[1]),
        "matched": (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean(),
    }
