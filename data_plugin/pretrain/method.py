"""What the training loop asks of a self-supervised method."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from data_plugin.backbones.sliced import SlicedLinear
from data_plugin.input_format import InputFormat
from data_plugin.pretrain.views import Transform


class Method(nn.Module, ABC):
    """A self-supervised method: its views, heads, loss and memory. Backbones, steps and averages are the loop's.

    In a step the loop gives the key branch's feature maps to :meth:`targets`, without gradient, then each query
    network's feature maps to :meth:`predictions` and these to :meth:`loss`, and at last calls :meth:`remember`, once.
    It averages ``key_head`` as it averages the key backbone. Query networks differ in width, so what reads their
    feature maps has to take the first channels of a wider input (:func:`with_sliced_entry`).

    Args:
        query_head: the head of the query branch; the key branch gets a copy.

    Attributes:
        name: what supernet files call the method.
        query_views: which views the query branch sees.
        key_views: which views the key branch sees.
    """

    name: ClassVar[str]
    query_views: ClassVar[tuple[int, ...]]
    key_views: ClassVar[tuple[int, ...]]

    def __init__(self, query_head: nn.Module) -> None:
        super().__init__()
        self.query_head = query_head
        self.key_head = copy.deepcopy(query_head).requires_grad_(False)

    @abstractmethod
    def transform(self, image_size: int, input_format: InputFormat) -> Transform:
        """What makes the views, (3, ``image_size``, ``image_size``) each."""

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
            query_maps: its C5 (N, C, H, W), C at most the largest network's, for each of :attr:`query_views`.
        """

    @abstractmethod
    def loss(self, predictions: Any, targets: Any) -> Tensor:
        """How far one query network is from the step's targets: a number, averaged over the images."""

    def remember(self, targets: Any) -> None:
        """Keep what later steps need of this one, once all its losses are computed."""
        del targets

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
