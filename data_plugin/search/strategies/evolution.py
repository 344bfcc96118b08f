"""Finding close networks by mutation and crossover, where a space has too many to enumerate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_plugin.search.strategies.strategy import Candidates, Measures, Outcome, Strategy, Within, distinct
from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

TRIES = 2_000
"""Draws after which a network that fits the budget and is new counts as not to be found."""


@dataclass(frozen=True)
class Evolution(Strategy):
    """How networks evolve; defaults as in once-for-all (Cai et al., 2020, appendix).

    Args:
        population: networks of a generation.
        generations: generations after the first, random one.
        parents: part of the population that has children, 0 to 1.
        mutated: part of the children that are mutations of one parent; the others are crossed from two.
        mutation: probability with which a mutation draws a choice anew.

    Raises:
        UserError: if a number is out of range.
    """

    population: int = 100
    generations: int = 20
    parents: float = 0.25
    mutated: float = 0.5
    mutation: float = 0.1
    comes_back = True

    def __post_init__(self) -> None:
        if self.population < 4 or self.generations < 1:
            raise UserError(
                f"an evolution of {self.generations} generations of {self.population} networks was asked for; "
                "expected at least 1 generation of 4"
            )

    @property
    def chosen(self) -> str:
        """See :class:`Strategy`."""
        return "found by evolution"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """None are known beforehand."""
        return {}

    def most(self, candidates: Candidates, budgets: int) -> int:
        """See :class:`Strategy`."""
        return budgets * self.population * (self.generations + 1)

    def search(
        self,
        measures: Measures,
        candidates: Candidates,
        space: SearchSpace,
        budgets: Mapping[str, Within],
        seed: int,
    ) -> Outcome:
        """See :class:`Strategy`."""

        def measure(archs: Sequence[Arch]) -> list[float]:
            result = measures.measure(archs)
            return [float(result.scores[result.index[arch]]) for arch in archs]

        found = {name: evolve(space, within, measure, self, seed) for name, within in budgets.items()}
        return Outcome(measures.measure(distinct(found)), found)

    def to_json(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {"name": "evolution", **asdict(self)}


def evolve(
    space: SearchSpace,
    fits: Within,
    measure: Callable[[Sequence[Arch]], Sequence[float]],
    settings: Evolution,
    seed: int,
) -> list[Arch]:
    """Evolve networks within a budget towards low divergences.

    Args:
        space: the search space; it is never enumerated.
        fits: tells which networks are within the budget.
        measure: takes the networks of a generation, none of which it has seen before, and returns their divergences.
        settings: sizes and rates.
        seed: the same seed and divergences give the same networks.

    Returns:
        All networks that were measured, closest first.

    Raises:
        UserError: if no network within the budget is found by drawing.
    """
    generator = np.random.default_rng(seed)
    scores: dict[Arch, float] = {}

    def new(draw: Callable[[], Arch], known: set[Arch]) -> Arch | None:
        for _ in range(TRIES):
            arch = draw()
            if arch not in known and fits(np.array([arch.row])).all():
                return arch
        return None

    def generation(draws: Sequence[Callable[[], Arch]]) -> None:
        archs: list[Arch] = []
        for draw in draws:
            arch = new(draw, {*scores, *archs})
            if arch is None:
                break
            archs.append(arch)
        if archs:
            scores.update(zip(archs, measure(archs), strict=True))

    generation([lambda: space.draw(generator)] * settings.population)
    if not scores:
        raise UserError(f"{TRIES} drawn networks held none within the budget; widen it")
    for _ in range(settings.generations):
        best = sorted(scores, key=lambda arch: (scores[arch], arch))
        parents = best[: max(2, round(settings.parents * settings.population))]
        mutations = round(settings.mutated * settings.population)
        mutate = [lambda parents=parents: _mutated(_pick(parents, generator), space, settings.mutation, generator)]
        cross = [lambda parents=parents: _crossed(_pick(parents, generator), _pick(parents, generator), generator)]
        generation(mutate * mutations + cross * (settings.population - mutations))
    return sorted(scores, key=lambda arch: (scores[arch], arch))


def _pick(archs: Sequence[Arch], generator: np.random.Generator) -> Arch:
    return archs[int(generator.integers(len(archs)))]


def _mutated(parent: Arch, space: SearchSpace, rate: float, generator: np.random.Generator) -> Arch:
    drawn = zip(parent.row, space.draw(generator).row, strict=True)
    return Arch.from_row([new if generator.random() < rate else old for old, new in drawn])


def _crossed(first: Arch, second: Arch, generator: np.random.Generator) -> Arch:
    return Arch.from_row([pair[int(generator.integers(2))] for pair in zip(first.row, second.row, strict=True)])
