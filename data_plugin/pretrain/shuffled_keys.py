"""Keys that are normalised together with other images than their queries are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from lightly.utils import dist
from torch import Tensor


class Shuffle:
    """An order of a batch over all processes: MoCo's shuffling BN (He et al., 2020, arXiv:1911.05722, section 3.3).

    Where batch norms use the statistics of their own process, a key that was computed beside the images that its query
    was computed beside can be told from others by that alone. So the key branch sees the images in another order, each
    process a part of it, and the keys are put back. Every process has to call it with as many images.

    Args:
        order: a permutation of the whole batch's images, the same in every process, which has an equal part of them in
            the order of their ranks: image ``order[i]`` comes to place ``i``.
    """

    def __init__(self, order: Tensor) -> None:
        self.order = order

    @classmethod
    def draw(cls, count: int, seed: Sequence[int]) -> Shuffle:
        """A random order.

        Args:
            count: images of each process.
            seed: the same seed gives the same order.
        """
        return cls(torch.from_numpy(np.random.default_rng(seed).permutation(count * dist.world_size())))

    def __call__(self, x: Tensor) -> Tensor:
        """This process's part of the shuffled batch, of its part ``x`` (N, ...) of the batch."""
        return _exchanged(x, self.order)

    def back(self, x: Tensor) -> Tensor:
        """This process's part of the batch in its own order, of its part ``x`` (N, ...) of the shuffled one."""
        return _exchanged(x, self.order.argsort())


def _exchanged(x: Tensor, order: Tensor) -> Tensor:
    count, rank, ranks = len(x), dist.rank(), dist.world_size()
    origins, destinations = order // count, torch.arange(len(order)) // count
    ours = origins == rank
    sent = x[(order[ours] - rank * count).to(x.device)].contiguous()
    senders = origins[destinations == rank]
    came = torch.empty_like(sent)
    coming, going = (torch.bincount(who, minlength=ranks).tolist() for who in (senders, destinations[ours]))
    torch.distributed.all_to_all_single(came, sent, coming, going)
    # They come sorted by sender; each to its place.
    return came[senders.argsort(stable=True).argsort().to(x.device)]
