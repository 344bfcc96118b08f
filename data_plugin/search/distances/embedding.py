"""How far a student's embedding of an image is from the teacher's (DATA, Eq. 3): the tap ``z``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.supernet.checkpoint import Supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed
from data_plugin.utils.tensor_files import require_matching

if TYPE_CHECKING:
    from data_plugin.pretrain.methods.method import Method


class TeacherEmbedding:
    """The teacher's embeddings of some images, computed once for all students.

    The distance is 1 less the cosine of the two embeddings: 0 where they agree, 2 where they are opposite.

    Args:
        features: the teacher's C5 (N, C', H, W).
        heads: the method whose heads make embeddings of both sides, in evaluation mode.
    """

    def __init__(self, features: Tensor, heads: Method) -> None:
        self.heads = heads
        self.embeddings = heads.embed_key(features.float())

    def estimate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of each student's C5 (N, C, H, W) and its variance from sampling, which is zero; (N,), float64."""
        embeddings = self.heads.embed_query(features.float())
        distances = 1 - F.cosine_similarity(embeddings, self.embeddings, dim=1).double()
        return distances, torch.zeros_like(distances)


def trained_heads(supernet: Supernet, path: str) -> Method:
    """The method that trained a supernet, with the heads that its file keeps, in evaluation mode.

    Args:
        supernet: the supernet.
        path: its file, for messages.

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
        raise UserError(f"{path} does not say which heads trained it, so it has no tap z; search with feature maps")
    heads = method.heads()
    require_matching(path, supernet.heads, heads, f"the heads of {supernet.info.method}")
    with torch.no_grad():
        for name, value in heads.items():
            value.copy_(supernet.heads[name])
    return method.eval()
