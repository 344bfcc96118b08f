"""Do two searches agree? The user's own version of the ablations on domains and taps (DATA, Tables 9 and 10)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

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
    winners: tuple[str, str]
    ranks: tuple[int, int]


def read_search(folder: Path) -> dict[str, Any]:
    """The ``search.json`` of an output folder.

    Raises:
        UserError: if there is none or it cannot be read.
    """
    path = folder / "search.json"
    try:
        contents = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected the output folder of a finished search") from error
    if not isinstance(contents, dict) or "candidates" not in contents:
        raise UserError(f"{path} is no search of this project; expected the output folder of a finished search")
    return contents


def compare_searches(first: Mapping[str, Any], second: Mapping[str, Any], top: int = 10) -> list[Agreement]:
    """Agreement over all networks that both searches compared, then within every budget that both have.

    Args:
        first: the contents of a ``search.json``.
        second: those of another, best of the same supernet and seed, so that the candidates are the same.
        top: how many of the closest networks to look at, at least 1.

    Raises:
        UserError: if ``top`` is below 1, the supernets differ or fewer than three networks are common.
    """
    if top < 1:
        raise UserError(f"the top {top} networks were asked for; expected at least 1")
    if first["supernet"]["sha256"] != second["supernet"]["sha256"]:
        raise UserError(
            "the searches are of two supernets, whose scores mean different things; compare searches of one supernet"
        )
    scores = [{row["arch"]: row for row in search["candidates"]} for search in (first, second)]
    common = [arch for arch in scores[0] if arch in scores[1]]
    if len(common) < 3:
        raise UserError(
            f"the searches have {len(common)} networks in common; expected 3 at least (use the same --seed)"
        )
    budgets = [budget for budget in first["budgets"] if budget in second["budgets"]]
    within = {budget: [a for a in common if all(budget in s[a]["budgets"] for s in scores)] for budget in budgets}
    parts: list[tuple[str | None, list[str]]] = [(None, common), *within.items()]
    return [_agreement(budget, archs, scores, top) for budget, archs in parts if len(archs) >= 3]


def _agreement(budget: str | None, archs: list[str], scores: list[dict[str, dict[str, Any]]], top: int) -> Agreement:
    values = [[side[arch]["score"] for arch in archs] for side in scores]
    orders = [sorted(archs, key=lambda arch, side=side: side[arch]["score"]) for side in scores]  # type: ignore[misc]
    return Agreement(
        budget=budget,
        common=len(archs),
        spearman=float(spearmanr(*values).statistic),
        top=min(top, len(archs)),
        overlap=len(set(orders[0][:top]) & set(orders[1][:top])),
        winners=(orders[0][0], orders[1][0]),
        ranks=(orders[1].index(orders[0][0]) + 1, orders[0].index(orders[1][0]) + 1),
    )
