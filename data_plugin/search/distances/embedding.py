"""How far a student's embedding of an image is from the teacher's (DATA, Eq. 3): the tap ``z``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.backbones.sliced import batch_statistics
from data_plugin.features.norm_statistics import Statistics, averaged, buffers
from data_plugin.supernet.checkpoint import Supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed
from data_plugin.utils.tensor_files import require_matching

if TYPE_CHECKING:
    from data_plugin.pretrain.methods.method import Method

Network = tuple[int, ...]
"""What decides a network's features, as :func:`data_plugin.features.prefix_tree.prefix` has it; () is the teacher."""


class Embedder:
    """A method's heads, whose batch norms normalise as those of the networks below them do.

    A head is shared by all networks and its running statistics mix them, as the supernet's do.

    Args:
        heads: the method whose heads make embeddings, in evaluation mode.
        norm: one of :data:`data_plugin.features.networks.NORM_POLICIES`.
    """

    def __init__(self, heads: Method, norm: str) -> None:
        self.heads = heads
        self.norm = norm
        self.norms = [m for m in heads.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.statistics: dict[Network, Statistics] = {}

    def calibrate(self, pooled: Tensor, network: Network, done: int) -> None:
        """Take the statistics of a batch into those of a network, the means over ``done`` earlier batches.

        Args:
            pooled: the network's C5 averaged over its positions, (N, C).
            network: the network.
            done: earlier batches.
        """
        if not self.norms:
            return
        before = [(norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in self.norms]
        for norm in self.norms:
            norm.training, norm.momentum = True, 1.0
        self._embedded(pooled, network)
        # Some norms belong to the other branch; they keep what they have and are not asked for.
        averaged(self.statistics, network, [buffers(norm) for norm in self.norms], done)
        for norm, (momentum, values) in zip(self.norms, before, strict=True):
            norm.training, norm.momentum = False, momentum
            for buffer, value in zip(norm.buffers(), values, strict=True):
                buffer.copy_(value)

    def embed(self, pooled: Tensor, network: Network) -> Tensor:
        """Embeddings (N, dim) of a network's C5 averaged over its positions, (N, C).

        Raises:
            UserError: if batch statistics are wanted of a single image.
        """
        if self.norm == "running" or not self.norms:
            return self._embedded(pooled, network)
        if self.norm == "batch":
            if len(pooled) < 2 and not pooled.is_meta:
                raise UserError(
                    "a batch of one image has no batch statistics in the heads, which the tap z needs; give "
                    "--batch-size 2 or more, or --norm recalibrated"
                )
            with batch_statistics(self.heads):
                return self._embedded(pooled, network)
        for norm, values in zip(self.norms, self.statistics[network], strict=True):
            for buffer, value in zip(buffers(norm), values, strict=True):
                buffer.copy_(value)
        return self._embedded(pooled, network)

    def _embedded(self, pooled: Tensor, network: Network) -> Tensor:
        head = self.heads.embed_query if network else self.heads.embed_key
        return head(pooled.float()[:, :, None, None])


class TeacherEmbedding:
    """The teacher's embeddings of some images, computed once for all students.

    The distance is 1 less the cosine of the two embeddings: 0 where they agree, 2 where they are opposite.

    Args:
        pooled: the teacher's C5 averaged over its positions, (N, C').
        embedder: what makes embeddings of both sides.
    """

    def __init__(self, pooled: Tensor, embedder: Embedder) -> None:
        self.embedder = embedder
        self.embeddings = embedder.embed(pooled, ())

    def distance(self, pooled: Tensor, network: Network) -> Tensor:
        """Distance (N,), float64, of a student's C5 averaged over its positions, (N, C)."""
        embeddings = self.embedder.embed(pooled, network)
        return 1 - F.cosine_similarity(embeddings, self.embeddings, dim=1).double()


def trained_heads(supernet: Supernet, name: str = "the supernet") -> Method:
    """The method that trained a supernet, with the heads that its file keeps, in evaluation mode.

    Args:
        supernet: the supernet.
        name: what messages call it, such as its file.

    Raises:
        UserError: if the file does not tell what its heads are, they do not match, or lightly, which heads are built
            with, is not installed.
    """
    require_installed(("lightly",), extra="pretrain")
    from data_plugin.pretrain.methods.moco import MoCoV2, MoCoV2Settings
    from data_plugin.pretrain.recipe import Recipe

    features = supernet.info.space.largest.out_channels[-1]
    recipe = supernet.info.training.get("recipe")
    entry, output = (supernet.heads.get(f"query.layers.{layer}.weight") for layer in (0, 2))
    if recipe is not None:
        method: Method = Recipe.from_json(recipe).build_method(features)
    # The authors' release, which does not say how it was trained.
    elif supernet.info.method == "mocov2" and entry is not None and output is not None:
        method = MoCoV2(features, MoCoV2Settings(hidden=len(entry), dim=len(output)))
    else:
        raise UserError(f"{name} does not say which heads trained it, so it has no tap z; search with feature maps")
    heads = method.heads()
    require_matching(name, supernet.heads, heads, f"the heads of {supernet.info.method}")
    with torch.no_grad():
        for entry_name, value in heads.items():
            value.copy_(supernet.heads[entry_name])
    return method.eval()
