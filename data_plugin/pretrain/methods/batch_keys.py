"""Keys of the batch's other images, in the place of those of earlier steps."""

from __future__ import annotations

import torch
from lightly.models.utils import concat_all_gather
from lightly.utils import dist
from torch import Tensor, nn

from data_plugin.pretrain.methods.key_queue import KeyQueue
from data_plugin.utils.errors import UserError


class BatchKeys(nn.Module):
    """What answers as a :class:`KeyQueue` does, with the keys that the same network gave the batch's other images.

    A queue tells networks apart where keys of several are in it: a key of another architecture is known by that alone,
    whatever the image. These keys are all of one network. They are those of all processes, one fewer than the batch has
    images.
    """

    def similarities(self, x: Tensor, keys: Tensor) -> Tensor:
        """Cosines of images' embeddings with the keys of the batch's other images.

        Args:
            x: embeddings (N, ..., dim), of length 1.
            keys: the keys of the same images, (N, dim), of length 1.

        Returns:
            (N, ..., K - 1) for K images in all processes together.

        Raises:
            UserError: if there is no other image.
        """
        everyone = concat_all_gather(keys) if dist.world_size() > 1 else keys
        if len(everyone) == 1:
            raise UserError(
                "a batch of one image has no others to compare it with; expected two or more, so give a larger "
                "--batch-size, or fewer parts than --accumulate makes"
            )
        images = torch.arange(len(everyone), device=x.device)
        own = dist.rank() * len(keys) + torch.arange(len(keys), device=x.device)
        similar = x @ everyone.T
        # Selected instead of masked with -inf, which a distribution over the others could not be compared with.
        others = (images != own[:, None]).view(len(keys), *[1] * (x.dim() - 2), -1).expand_as(similar)
        return similar[others].view(*x.shape[:-1], -1)

    def enqueue(self, keys: Tensor) -> None:
        """Nothing: what is compared with is never older than the step."""


def compare_within_batch(method: nn.Module) -> None:
    """Let a method compare with the keys of the batch's other images wherever it does with those of a queue.

    Args:
        method: changed in place: each :class:`KeyQueue` in it becomes a :class:`BatchKeys`. Without any it stays as it
            is.
    """
    for module in list(method.modules()):
        for name, child in module.named_children():
            if isinstance(child, KeyQueue):
                setattr(module, name, BatchKeys())
