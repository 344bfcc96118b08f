"""Data-aware progressive training: how many sub-nets there are in which step, and whose images each gets."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_plugin.backbones.grouped import Path
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Phases:
    """The phases of a training, each of which splits images and sub-nets by one digit of the codes more.

    In phase 0 there is one sub-net, which all images train; in phase k there are ``children ** k``, each trained by the
    images whose codes begin with the k digits that its path begins with. The path's other entries are 0: of the levels
    that are not open yet it has the first group (SDR's data-aware progressive training, in our form).

    Args:
        levels: digits of a code.
        children: values of a digit.
        starts: the first step of each phase, 0 to begin with; ``levels + 1`` in all.
    """

    levels: int
    children: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, levels: int, children: int, steps: int, shares: Sequence[float] | None) -> Phases:
        """The phases of so many steps.

        Args:
            levels: see the class.
            children: see the class.
            steps: steps of the whole training.
            shares: parts of the steps that the phases have, in any unit; None gives all as many.

        Raises:
            UserError: if there is not one share for each phase.
        """
        shares = [1.0] * (levels + 1) if shares is None else list(shares)
        if len(shares) != levels + 1:
            raise UserError(
                f"the recipe's phases are {shares}, and codes of {levels} levels have {levels + 1} phases; "
                "expected as many numbers, or none for equal ones"
            )
        ends = np.cumsum(shares) / sum(shares)
        return cls(levels, children, (0, *(round(steps * end) for end in ends[:-1].tolist())))

    def at(self, step: int) -> int:
        """The phase of a step."""
        return bisect_right(self.starts, step) - 1

    def sub_nets(self, phase: int) -> int:
        """How many sub-nets there are in a phase."""
        return self.children**phase

    def opened_at(self, step: int) -> list[int]:
        """The levels whose groups open before a step."""
        return [phase - 1 for phase in range(1, self.levels + 1) if self.starts[phase] == step]

    def spans(self, steps: int) -> list[tuple[int, int]]:
        """The first step of each phase, and the one after its last."""
        return list(itertools.pairwise((*self.starts, steps)))

    def numbers(self, codes: np.ndarray, phase: int) -> np.ndarray:
        """The sub-net of each image in a phase.

        Args:
            codes: (N, levels); -1 in the rows of images that have none.
            phase: the phase.

        Returns:
            (N,), from 0 to ``sub_nets(phase) - 1``; -1 for images that take no part, which are those without a code,
            in phase 0 none.
        """
        numbers = codes[:, :phase] @ self.children ** np.arange(phase)[::-1]
        return np.where((codes[:, :phase] < 0).any(axis=1), -1, numbers)

    def path(self, number: int, phase: int) -> Path:
        """The path of a sub-net that :meth:`numbers` counted."""
        digits = [number // self.children**place % self.children for place in reversed(range(phase))]
        return (*digits, *[0] * (self.levels - phase))
