"""A search space: the widths and depths that a supernet's networks may take."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data_plugin.space.arch import STAGES, Arch
from data_plugin.utils.errors import UserError

Choices = tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """Every combination of the given stem widths, stage widths and stage depths.

    Args:
        stem: output channels that the stem may have, ascending.
        width: per stage, the channels that its 3x3 convolutions may have, ascending.
        depth: per stage, the numbers of bottlenecks that it may have, ascending.

    Raises:
        UserError: if there are not four stages, or choices are empty, not ascending or not positive.
    """

    stem: Choices
    width: tuple[Choices, Choices, Choices, Choices]
    depth: tuple[Choices, Choices, Choices, Choices]

    def __post_init__(self) -> None:
        if len(self.width) != STAGES or len(self.depth) != STAGES:
            raise UserError(
                f"a search space has {STAGES} stages; got {len(self.width)} widths, {len(self.depth)} depths"
            )
        for choices in self._choices:
            if not choices or choices[0] < 1 or any(a >= b for a, b in itertools.pairwise(choices)):
                raise UserError(f"the choices {list(choices)} of a search space must be positive and ascending")

    @classmethod
    def data(cls) -> SearchSpace:
        """The paper's space of 85,293 networks (DATA, Table 1)."""
        return cls(
            stem=_steps(32, 64, 16),
            width=(_steps(48, 80, 16), _steps(96, 160, 32), _steps(192, 320, 64), _steps(384, 640, 128)),
            depth=(_steps(2, 4, 1), _steps(2, 6, 2), _steps(5, 29, 2), _steps(2, 4, 1)),
        )

    @classmethod
    def micro(cls) -> SearchSpace:
        """Table 1 at a quarter of the width and a few blocks deep, to train and search on a CPU in minutes."""
        return cls(
            stem=_steps(8, 16, 4),
            width=(_steps(12, 20, 4), _steps(24, 40, 8), _steps(48, 80, 16), _steps(96, 160, 32)),
            depth=(_steps(1, 2, 1), _steps(1, 2, 1), _steps(1, 4, 1), _steps(1, 2, 1)),
        )

    @classmethod
    def mini(cls) -> SearchSpace:
        """32,768 networks of 0.04 to 0.72 GFLOPs, to train on a CPU overnight.

        The largest costs 20 times the smallest, against 9 times in Table 1 and 5 in :meth:`micro`: what a network's
        size is worth shows on few images too. Every width is a multiple of 8, which CPUs and GPUs compute fastest.
        """
        return cls(
            stem=_steps(8, 32, 8),
            width=(_steps(8, 32, 8), _steps(16, 64, 16), _steps(32, 128, 32), _steps(64, 256, 64)),
            depth=(_steps(1, 2, 1), _steps(1, 2, 1), _steps(1, 4, 1), _steps(1, 2, 1)),
        )

    @classmethod
    def of(cls, arch: Arch) -> SearchSpace:
        """The space of one network."""
        stem, *widths = ((width,) for width in arch.paper_width)
        return cls(stem, tuple(widths), tuple((depth,) for depth in arch.depth))  # type: ignore[arg-type]

    @property
    def _choices(self) -> tuple[Choices, ...]:
        return (self.stem, *self.width, *self.depth)

    @property
    def largest(self) -> Arch:
        """The network that holds all others; the teacher of training and search."""
        return Arch.from_row([choices[-1] for choices in self._choices])

    @property
    def smallest(self) -> Arch:
        """The network that all others hold."""
        return Arch.from_row([choices[0] for choices in self._choices])

    @property
    def middle(self) -> Arch:
        """The network of the middle choice everywhere, the lower one where there are two."""
        return Arch.from_row([choices[(len(choices) - 1) // 2] for choices in self._choices])

    def __len__(self) -> int:
        return math.prod(len(choices) for choices in self._choices)

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Arch) and all(
            value in choices for value, choices in zip(arch.row, self._choices, strict=True)
        )

    def __iter__(self) -> Iterator[Arch]:
        """All networks, in ascending order of stem, then widths, then depths."""
        return map(Arch.from_row, itertools.product(*self._choices))

    @cached_property
    def table(self) -> np.ndarray:
        """All networks in iteration order, shape (len, 9): stem, four widths, four depths."""
        grid = np.meshgrid(*(np.asarray(choices) for choices in self._choices), indexing="ij")
        table = np.stack([axis.ravel() for axis in grid], axis=1)
        table.setflags(write=False)
        return table

    def sample(self, count: int, seed: int, within: Callable[[np.ndarray], np.ndarray] | None = None) -> list[Arch]:
        """Distinct networks, every set of ``count`` of those that fit being equally likely.

        Args:
            count: how many networks are wanted, at least 1.
            seed: the same seed gives the same networks.
            within: takes :attr:`table` and returns a boolean mask of shape (len,), true where a network
                fits the budget; without it every network fits.

        Returns:
            ``count`` networks in iteration order; all that fit, with a warning, where fewer exist.

        Raises:
            UserError: if ``count`` is below 1.
        """
        if count < 1:
            raise UserError(f"{count} networks were asked for; expected at least 1")
        fitting = np.arange(len(self)) if within is None else np.flatnonzero(within(self.table))
        if len(fitting) < count:
            warnings.warn(
                f"{count} networks were asked for, but only {len(fitting)} of the space's {len(self)} fit: "
                "all of these are taken",
                stacklevel=2,
            )
            chosen = fitting
        else:
            chosen = np.sort(np.random.default_rng(seed).choice(fitting, size=count, replace=False))
        return [Arch.from_row(row) for row in self.table[chosen].tolist()]

    def fitting(self, within: Callable[[np.ndarray], np.ndarray]) -> list[Arch]:
        """All networks that fit a budget, in iteration order; ``within`` is as for :meth:`sample`."""
        return [Arch.from_row(row) for row in self.table[within(self.table)].tolist()]

    def draw(self, generator: np.random.Generator) -> Arch:
        """One network, uniformly, for a step of supernet training (DATA, Algorithm 1, line 7)."""
        return Arch.from_row([int(generator.choice(choices)) for choices in self._choices])

    def to_json(self) -> dict[str, Any]:
        """``{"stem": [...], "width": [[...], ...], "depth": [[...], ...]}``."""
        return {"stem": list(self.stem), "width": [list(c) for c in self.width], "depth": [list(c) for c in self.depth]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchSpace:
        """The space that :meth:`to_json` wrote.

        Raises:
            UserError: if ``value`` has another form.
        """
        try:
            width, depth = (tuple(tuple(choices) for choices in value[key]) for key in ("width", "depth"))
            return cls(stem=tuple(value["stem"]), width=width, depth=depth)  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise UserError(f"{value!r} is not a search space; expected stem, width and depth choices") from error


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "data": SearchSpace.data,
    "mini": SearchSpace.mini,
    "micro": SearchSpace.micro,
}
"""The spaces that a command line can name."""


def _steps(first: int, last: int, step: int) -> Choices:
    return tuple(range(first, last + 1, step))
