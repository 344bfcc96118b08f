"""How far a student's feature map is from the teacher's: the relative relations of DATA, Eq. 4 and 5."""

from __future__ import annotations

import hashlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data_plugin.utils.errors import UserError

TEMPERATURE = 0.2
"""Temperature of the relation softmax; columns are L2-normalised, as in the contrastive loss of MoCo v2."""

LOWEST_TEMPERATURE = 0.02
"""Somewhat below it exp(-1 / temperature) is no float32 any more."""

SHORTEST = 1e-12
"""Least length of a column that is normalised, as PyTorch's ``normalize`` has it; one of zeros stays so."""

KEPT = 2**24
"""See :func:`kept`."""


class TeacherRelation:
    """The teacher's side of the distance, prepared once for all students.

    For every position i of a feature map, r_ij is the softmax over all positions j of m_i . m_j / temperature
    (columns m L2-normalised), and a student with relations r is R = sum_i sum_j -r'_ij log r_ij away from a
    teacher with relations r' (DATA, Eq. 4 and 5; lower is closer). Most of R is the same for all students: the entropy
    of the teacher's own relations. What R exceeds it by is the divergence, zero for a student with the teacher's
    relations. Channel numbers may differ. The relation is computed in tiles, so memory grows with HW and never with its
    square.

    Args:
        features: the teacher's feature maps (N, C', H, W).
        temperature: at least :data:`LOWEST_TEMPERATURE`.
        rows: positions i (N, n), n at least 2, distinct within each map, whose share of R stands for all; None sums
            all. Drawn uniformly, as :func:`draw_rows` does, they leave R unbiased.
        tile: positions along each side of a tile; None takes :func:`tile_on` the device.
        keep: keep the teacher's side in memory; None decides by :func:`kept`.
        kernel: compute with the Triton kernel of :mod:`.relation_kernel` instead of PyTorch; None takes, on a CUDA
            device, what is faster there for the first student of a shape, else PyTorch.
        faster: remembers by the shape of a relation whether the kernel was faster, for other relations of that shape.

    Attributes:
        positions: number of positions of the map.

    Raises:
        UserError: if the temperature is too low.
    """

    def __init__(
        self,
        features: Tensor,
        temperature: float = TEMPERATURE,
        rows: Tensor | None = None,
        tile: int | None = None,
        keep: bool | None = None,
        kernel: bool | None = None,
        faster: dict[tuple[int, ...], bool] | None = None,
    ) -> None:
        if not temperature >= LOWEST_TEMPERATURE:
            raise UserError(f"the temperature is {temperature}; expected at least {LOWEST_TEMPERATURE}")
        self.temperature = temperature
        self.rows = rows
        self.highest = torch.tensor(1 / temperature, device=features.device)
        self.columns = self._columns(features)
        self.selected = self._selected(self.columns)
        count, self.positions = self.selected.shape[1], self.columns.shape[1]
        keep = kept(self.positions, count) if keep is None else keep
        size = tile or tile_on(features.device)
        blocks = _blocks(self.positions, size)
        if rows is None:
            # What the tiles below the diagonal hold is what those above it hold.
            self.tiles = [(block, other) for i, block in enumerate(blocks) for other in blocks[i:]]
        else:
            self.tiles = [(block, other) for block in _blocks(count, size) for other in blocks]
        if features.is_meta and not keep:  # Only memory is of interest there, and tiles that go again take the same.
            self.tiles = self.tiles[:2]
        sums, held = self._row_sums(keep)
        self.shares = sums.reciprocal().float()
        self.targets = [self._shared(*pair) for pair in zip(held, self.tiles, strict=True)] if keep else None
        self.shape = (self.positions, count, self.columns.shape[2])
        self.faster = {} if faster is None else faster
        self.kernel = kernel
        if kernel is None and not (features.is_cuda and importlib.util.find_spec("triton")):
            self.kernel = False
        self.entropies = self._tiled(self.columns, self.selected)

    @property
    def own(self) -> Tensor:
        """The teacher's distance to itself, R of its own relations, (N,), float64."""
        return self._over_rows(self.entropies)

    @property
    def bytes(self) -> int:
        """Bytes of what is kept for the students."""
        return self.columns.nbytes + sum(target.nbytes for target in self.targets or ())

    def distance(self, features: Tensor) -> Tensor:
        """R of each student map (N, C, H, W), shape (N,), float64 (Eq. 4 and 5)."""
        return self.own + self.estimate(features)[0]

    def estimate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence of each student map (N, C, H, W) from the teacher's, and its variance from drawing rows.

        Returns:
            Divergences (N,) and variances (N,), float64; variances are zero where no rows were drawn.
        """
        student = self._columns(features)
        if self.kernel is None:
            self._choose(student)
        divergences = (self._fused if self.kernel else self._tiled)(student) - self.entropies
        total = self._over_rows(divergences)
        if self.rows is None:
            return total, torch.zeros_like(total)
        positions, count = self.positions, self.rows.shape[1]
        variance = divergences.var(dim=1) * positions**2 / count * (1 - count / positions)
        return total, variance

    def _row_sums(self, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """What the teacher's rows add up to (N, n), float64, and its tiles if they are kept."""
        sums = torch.zeros(self.selected.shape[:2], dtype=torch.float64, device=self.selected.device)
        held = []
        for each in self.tiles:
            values = self._logits(self.selected, self.columns, *each).exp_()
            self._add_up(sums, values, *each)
            if keep:
                held.append(values)
        return sums, held

    def _choose(self, student: Tensor) -> None:
        """Take the kernel where it is the faster way for relations of this shape."""
        if self.shape not in self.faster:
            self.faster[self.shape] = _is_faster(self._fused, self._tiled, student)
        self.kernel = self.faster[self.shape]
        if self.kernel:
            self.targets = None

    def _over_rows(self, values: Tensor) -> Tensor:
        """The sum (N,) over all rows of which (N, n) are given."""
        total = values.sum(dim=1)
        return total if self.rows is None else total * self.positions / self.rows.shape[1]

    def _tiled(self, student: Tensor, selected: Tensor | None = None) -> Tensor:
        """Cross-entropies of the rows (N, n); without drawn rows, a row may have a part of another's."""
        selected = self._selected(student) if selected is None else selected
        sums, expected = torch.zeros(2, *selected.shape[:2], dtype=torch.float64, device=student.device)
        for tile, target in zip(self.tiles, self.targets or self._targets(), strict=True):
            logits = self._logits(selected, student, *tile)
            expected[:, tile[0]] += torch.linalg.vecdot(target, logits)
            self._add_up(sums, logits.exp_(), *tile)
        return sums.log() - expected

    def _fused(self, student: Tensor) -> Tensor:
        """Cross-entropies of the rows (N, n)."""
        from data_plugin.search.distances.relation_kernel import cross_entropies

        return cross_entropies(self.columns, student, self.rows, 1 / self.temperature).double()

    def _columns(self, features: Tensor) -> Tensor:
        """Columns of each map, (N, C, H, W) to (N, HW, C), whose products are similarities / temperature."""
        columns = features.float().flatten(2).mT
        lengths = torch.linalg.vector_norm(columns, dim=2, keepdim=True).clamp_min_(SHORTEST)
        return columns / lengths.mul_(self.temperature**0.5)

    def _selected(self, columns: Tensor) -> Tensor:
        """The columns whose rows of the relation are summed up."""
        if self.rows is None:
            return columns
        return columns.gather(1, self.rows[..., None].expand(-1, -1, columns.shape[2]))

    def _logits(self, selected: Tensor, columns: Tensor, block: slice, other: slice) -> Tensor:
        # Less 1 / temperature, which no similarity exceeds: exp() cannot overflow, and R does not change.
        return torch.baddbmm(self.highest, selected[:, block], columns[:, other].mT, beta=-1)

    def _add_up(self, sums: Tensor, values: Tensor, block: slice, other: slice) -> None:
        """Add a tile to the sums of its rows and, where it stands for its mirror image too, of that one's."""
        sums[:, block] += values.sum(dim=2)
        if self._mirrored(block, other):
            sums[:, other] += values.sum(dim=1)

    def _targets(self) -> Iterator[Tensor]:
        """What is not kept, tile by tile."""
        for tile in self.tiles:
            yield self._shared(self._logits(self.selected, self.columns, *tile).exp_(), tile)

    def _shared(self, values: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """The teacher's relations r' of a tile, with those of its mirror image added where it stands for both."""
        block, other = tile
        shares = self.shares[:, block, None]
        if self._mirrored(block, other):
            shares = shares + self.shares[:, None, other]
        return values.mul_(shares)

    def _mirrored(self, block: slice, other: slice) -> bool:
        return self.rows is None and block != other


def tile_on(device: torch.device) -> int:
    """Positions along each side of the part of a relation that is held at once on a device.

    On a CPU one that stays in its cache is fastest; a GPU wants enough work in each call.
    """
    return 256 if device.type == "cpu" else 2048


def kept(positions: int, rows: int | None) -> bool:
    """Whether a teacher's side is kept in memory for all students, instead of computed again for each.

    Args:
        positions: number of positions of the map.
        rows: rows that are drawn; None stands for all.
    """
    return positions * min(rows or positions, positions) <= KEPT


def draw_rows(images: Sequence[str], positions: int, count: int, seed: int, tap: str) -> Tensor | None:
    """Distinct positions for every image, uniformly drawn, the same whenever image, tap and seed are.

    Args:
        images: what identifies each image.
        positions: number of positions of the map.
        count: positions to draw, at least 2.
        seed: seed of the draw.
        tap: which map.

    Returns:
        Positions (N, count), or None, which stands for all, where there are no more than ``count``.
    """
    if count >= positions:
        return None
    digests = (hashlib.sha256(f"{seed} {tap} {image}".encode()).digest() for image in images)
    draws = (np.random.default_rng(list(digest)).choice(positions, count, replace=False) for digest in digests)
    return torch.from_numpy(np.stack(list(draws)))


def _is_faster(way: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], student: Tensor) -> bool:
    """Whether one way to compute takes less time than another here; one that fails or disagrees is not."""
    try:
        found, seconds = _timed(way, student)
    # A GPU that Triton does not know, no C compiler, too little shared memory: each has an exception of its own.
    except Exception as error:
        warnings.warn(f"the relation's Triton kernel does not run here, PyTorch takes its place: {error}", stacklevel=2)
        return False
    expected, other_seconds = _timed(other, student)
    # Features that overflowed give NaN either way.
    if not torch.allclose(found.sum(dim=1), expected.sum(dim=1), rtol=1e-2, equal_nan=True):
        warnings.warn("the relation's Triton kernel is wrong here, PyTorch takes its place", stacklevel=2)
        return False
    return seconds < other_seconds


def _timed(way: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, float]:
    wait = torch.cuda.synchronize if student.is_cuda else lambda: None
    way(student)  # compiles or loads what it needs
    wait()
    start = time.perf_counter()
    found = way(student)
    wait()
    return found, time.perf_counter() - start


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
