"""Successive halving over images: all networks see few images, and those that are surely behind see no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_plugin.search.certainty import surely_behind
from data_plugin.search.result import SearchResult
from data_plugin.search.strategies.exhaustive import Exhaustive
from data_plugin.search.strategies.sample import Sample
from data_plugin.search.strategies.strategy import Candidates, Measures, Outcome, Strategy, Within, distinct
from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

ROUNDS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Part of the images that has been seen after each round."""


@dataclass(frozen=True)
class Halving(Strategy):
    """Rounds of more and more images, networks that are surely behind being dropped after each.

    A network is dropped from a budget when the closest one there is closer by :func:`surely_behind`; one that is in no
    budget any more sees no further images.

    Args:
        start: gives the networks of the first round.
        confidence: per round and budget, that every dropped network is further than one that was kept; between 0.5
            and 1.

    Raises:
        UserError: if the confidence is out of range.
    """

    start: Sample | Exhaustive
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise UserError(f"the confidence is {self.confidence}; expected more than 0.5 and less than 1")

    @property
    def chosen(self) -> str:
        """See :class:`Strategy`."""
        return f"left of {self.start.chosen}"

    def candidates(self, space: SearchSpace, budgets: Mapping[str, Within], seed: int) -> Candidates:
        """See :class:`Strategy`."""
        return self.start.candidates(space, budgets, seed)

    def search(
        self,
        measures: Measures,
        candidates: Candidates,
        space: SearchSpace,
        budgets: Mapping[str, Within],
        seed: int,
    ) -> Outcome:
        """See :class:`Strategy`."""
        alive = {name: list(archs) for name, archs in candidates.items()}
        dropped: dict[Arch, tuple[int, float]] = {}
        seen = 0
        for part in ROUNDS:
            end = measures.count if part == 1 else max(seen, round(part * measures.count))
            if end == seen:
                continue
            archs = distinct(alive)
            measures.skip(len(dropped) * (end - seen))
            result = measures.measure(archs, range(end))
            seen = end
            if seen < measures.count:
                alive = {name: self._kept(result, archs) for name, archs in alive.items()}
                kept = set(distinct(alive))
                scores = dict(zip(result.archs, result.scores.tolist(), strict=True))
                dropped.update({arch: (len(result.images), scores[arch]) for arch in archs if arch not in kept})
        return Outcome(result, alive, dropped)

    def _kept(self, result: SearchResult, archs: Sequence[Arch]) -> list[Arch]:
        closest, *others = result.ranking(archs)
        behind = surely_behind(result, closest, others, self.confidence)
        gone = {result.archs[index] for index, is_behind in zip(others, behind, strict=True) if is_behind}
        return [arch for arch in archs if arch not in gone]

    def to_json(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {"name": "halving", "start": self.start.to_json(), "confidence": self.confidence}
