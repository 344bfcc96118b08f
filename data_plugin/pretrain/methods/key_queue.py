"""Keys of earlier steps, which contrastive and relational methods compare with."""

from __future__ import annotations

from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor


class KeyQueue(MemoryBankModule):
    """A queue of keys that is read as often as wanted and written by :meth:`enqueue` alone.

    lightly's losses write to their memory bank whenever they are called: three query networks a step would enqueue the
    same keys three times, and the second and third would meet their own positives among the negatives. Also unlike
    there, the queue is part of the state dict, so that a checkpoint holds it. It holds the keys of all processes.

    Args:
        size: number of keys.
        dim: length of a key.
    """

    bank: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size=(size, dim), gather_distributed=True)
        self.register_buffer("bank", self.bank)
        self.register_buffer("bank_ptr", self.bank_ptr)

    def similarities(self, x: Tensor, keys: Tensor) -> Tensor:
        """Cosines of images' embeddings with the keys of other images, here those of earlier steps.

        Args:
            x: embeddings (N, ..., dim), of length 1.
            keys: what :meth:`enqueue` will get of the same images, (N, dim); the queue holds none of them yet.

        Returns:
            (N, ..., size).
        """
        del keys
        return x @ self.bank.T

    def enqueue(self, keys: Tensor) -> None:
        """Put normalised keys (N, dim) in the place of the oldest."""
        # The backward pass of this step still reads what its losses compared with.
        self.bank = self.bank.clone()
        self._dequeue_and_enqueue(keys)
