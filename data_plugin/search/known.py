"""What a search knows of distinct feature maps, each once for all networks that share it, and what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data_plugin.features.prefix_tree import prefix
from data_plugin.space.arch import Arch


@dataclass
class Known:
    """What is known at one tap: a row for each distinct feature map, in which networks share theirs.

    Args:
        stage: the stage that decides the tap.
        rows: row by what decides the map, as :func:`data_plugin.features.prefix_tree.prefix` has it.
        values: by batch, divergences (rows, images); NaN, or no row yet, for what is not known.
        variance: by batch, their variances from drawing rows of the relation, summed up over the images, (rows,).
    """

    stage: int
    rows: dict[tuple[int, ...], int] = field(default_factory=dict)
    values: dict[int, np.ndarray] = field(default_factory=dict)
    variance: dict[int, np.ndarray] = field(default_factory=dict)

    def rows_of(self, archs: Sequence[Arch]) -> np.ndarray:
        """The row of every network, (archs,)."""
        return np.array([self.rows.setdefault(prefix(arch, self.stage), len(self.rows)) for arch in archs])

    def holds(self, rows: np.ndarray, batch: int) -> np.ndarray:
        """Which rows are known on a batch, (len(rows),)."""
        values = self.values.get(batch)
        if values is None:
            return np.zeros(len(rows), dtype=bool)
        held = rows < len(values)
        held[held] = ~np.isnan(values[rows[held], 0])
        return held

    def fill(self, batch: int, rows: np.ndarray, values: np.ndarray, variance: np.ndarray) -> None:
        """Take what was found on a batch for some rows: (len(rows), images) and (len(rows),)."""
        whole = np.full((len(self.rows), values.shape[1]), np.nan)
        whole_variance = np.zeros(len(self.rows))
        if batch in self.values:
            whole[: len(self.values[batch])] = self.values[batch]
            whole_variance[: len(self.variance[batch])] = self.variance[batch]
        whole[rows], whole_variance[rows] = values, variance
        self.values[batch], self.variance[batch] = whole, whole_variance


class Asked:
    """Networks to be compared, and the distinct maps of theirs that are not known yet.

    Args:
        archs: the networks, in the tree's order.
        known: what is known of them, (taps, archs).
        rows: their rows per tap, (archs,) each.
    """

    def __init__(self, archs: list[Arch], known: np.ndarray, rows: list[np.ndarray]) -> None:
        self.archs = archs
        self.known = known
        self.rows = rows
        self.maps = [np.unique(of_tap[~held]) for of_tap, held in zip(rows, known, strict=True)]
        """Per tap, the rows of the maps, ascending."""

    def place(self, tap: int, index: int) -> int:
        """Where in :attr:`maps` the map of a network is."""
        return int(np.searchsorted(self.maps[tap], self.rows[tap][index]))
