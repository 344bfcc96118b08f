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

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size=(size, dim), gather_distributed=True)
        self.register_buffer("bank", self.bank)
        self.register_buffer("bank_ptr", self.bank_ptr)

    def forward(
        self, output: Tensor, labels: Tensor | None = None, update: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``output`` as it is, and all keys (dim, size); the other arguments are lightly's and mean nothing here."""
        del labels, update
        return super().forward(output, update=False)

    def enqueue(self, keys: Tensor) -> None:
        """Put normalised keys (N, dim) in the place of the oldest."""
        self._dequeue_and_enqueue(keys)
