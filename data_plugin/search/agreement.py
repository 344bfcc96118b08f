"""Do two searches agree? The user's own version of the ablations on domains and taps (DATA, Tables 9 and 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from data_plugin.search.report.search_report import SearchReport
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Agreement:
    """How far two searches agree on the networks that both compared.

    Args:
        budget: a budget that both have, or None for all networks together.
        common: number of networks that both compared.
        spearman: rank correlation of their scores, -1 to 1.
        top: how many of the closest networks are looked at.
        overlap: networks among the ``top`` of both.
        winners: the closest network of each.
        ranks: where each one's closest network stands in the other, from 1.
    """

    budget: str | None
    common: int
    spearman: float
    top: int
    overlap: int
    winners: tuple[Arch, Arch]
    ranks: tuple[int, int]


def compare_searches(first: SearchReport, second: SearchReport, top: int = 10) -> list[Agreement]:
    """Agreement over all networks that both searches compared, then within every budget that both have.

    Args:
        first: a search.
        second: another, best of the same supernet and seed, so that the candidates are the same.
        top: how many of the closest networks to look at, at least 1.

    Raises:
        UserError: if ``top`` is below 1, the supernets differ or fewer than three networks are common.
    """
    if top < 1:
        raise UserError(f"the top {top} networks were asked for; expected at least 1")
    if first.run["supernet"]["sha256"] != second.run["supernet"]["sha256"]:
        raise UserError(
            "the searches are of two supernets, whose scores mean different things; compare searches of one supernet"
        )
    sides = [_Side(search) for search in (first, second)]
    common = [arch for arch in sides[0].scores if arch in sides[1].scores]
    if len(common) < 3:
        raise UserError(
            f"the searches have {len(common)} networks in common; expected 3 at least (use the same --seed)"
        )
    budgets = [budget for budget in first.budgets if budget in second.budgets]
    within = {budget: [a for a in common if all(budget in side.budgets[a] for side in sides)] for budget in budgets}
    parts: list[tuple[str | None, list[Arch]]] = [(None, common), *within.items()]
    return [_agreement(budget, archs, sides, top) for budget, archs in parts if len(archs) >= 3]


class _Side:
    """Scores and budgets of one search's candidates."""

    def __init__(self, search: SearchReport) -> None:
        candidates = search.candidates
        self.scores = dict(zip(candidates.archs, candidates.scores.tolist(), strict=True))
        self.budgets = dict(zip(candidates.archs, candidates.budgets, strict=True))

    def order(self, archs: Sequence[Arch]) -> list[Arch]:
        """The networks, closest first."""
        return sorted(archs, key=lambda arch: self.scores[arch])


def _agreement(budget: str | None, archs: list[Arch], sides: Sequence[_Side], top: int) -> Agreement:
    values = [[side.scores[arch] for arch in archs] for side in sides]
    orders = [side.order(archs) for side in sides]
    return Agreement(
        budget=budget,
        common=len(archs),
        spearman=float(spearmanr(*values).statistic),
        top=min(top, len(archs)),
        overlap=len(set(orders[0][:top]) & set(orders[1][:top])),
        winners=(orders[0][0], orders[1][0]),
        ranks=(orders[1].index(orders[0][0]) + 1, orders[0].index(orders[1][0]) + 1),
    )
