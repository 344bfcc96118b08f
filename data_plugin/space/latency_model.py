"""The latency of every network of a space, from those of a few that were measured whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from data_plugin.space.arch import Arch
from data_plugin.space.blocks import Block, block_counts, blocks_of
from data_plugin.space.search_space import SearchSpace

MEASURED = 100
"""Networks that are measured whole, at the least; by more the fit is hardly closer."""

STIFFNESS = 0.1
"""How much a block that costs twice the general rule weighs, against a network that is off by its whole latency."""


@dataclass(frozen=True)
class LatencyModel:
    """Latency as the sum over a network's blocks.

    Args:
        blocks: all blocks of the space.
        seconds: what each adds to a network, (blocks,).
    """

    blocks: Sequence[Block]
    seconds: np.ndarray

    def latency(self, table: np.ndarray) -> np.ndarray:
        """Latency (N,) in seconds of networks (N, 9) for one image."""
        return block_counts(self.blocks, table) @ self.seconds


def fit_latency(blocks: Sequence[Block], table: np.ndarray, seconds: np.ndarray) -> LatencyModel:
    """What every block adds to a network, so that the sums come close to measured networks, in relative terms.

    A block that is timed alone, over and over, finds its weights and its input in the cache, and is faster than within
    a network. Here every block is charged with what it costs there. First all blocks follow one rule, so much for each
    and so much for its multiply-accumulates; then each leaves it as far as the networks ask for.

    Args:
        blocks: all blocks of the space.
        table: the measured networks (N, 9).
        seconds: their latencies (N,), positive.
    """
    shares = block_counts(blocks, table) / seconds[:, None]
    features = np.column_stack([np.ones(len(blocks)), [block.macs for block in blocks]])
    features /= features.max(0)
    rule = features @ nnls(shares @ features, np.ones(len(table)))[0]
    scaled = np.vstack([shares * rule, STIFFNESS * np.eye(len(blocks))])
    wanted = np.concatenate([np.ones(len(table)), np.full(len(blocks), STIFFNESS)])
    return LatencyModel(blocks, rule * nnls(scaled, wanted)[0])


def networks_to_measure(space: SearchSpace, count: int = MEASURED, seed: int = 0) -> list[Arch]:
    """Networks in random order, at least ``count`` where the space has as many, and so that every block is in one.

    Args:
        space: the search space.
        count: how many, at least 1.
        seed: the same seed gives the same networks.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(space))
    present = block_counts(blocks_of(space, (1, 1)), space.table[order]) > 0
    # The first network of every block; of these, those beyond the first ``count`` come on top.
    needed = np.unique(present.argmax(0))
    chosen = [*range(min(count, len(space))), *needed[needed >= count].tolist()]
    return [Arch.from_row(row) for row in space.table[order[chosen]].tolist()]
