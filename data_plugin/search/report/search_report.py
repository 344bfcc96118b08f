"""What a search came to: one typed report, which terminal, JSON, CSV and HTML show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.search.certainty import CONFIDENCE, surely_behind
from data_plugin.search.knowledge import Knowledge
from data_plugin.search.report.finetuning import Finetuning
from data_plugin.search.report.rank_check import RankCheck
from data_plugin.search.result import SearchResult
from data_plugin.search.rivals import Rival
from data_plugin.search.strategies.strategy import Outcome
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget, Costs
from data_plugin.space.pareto import pareto_front
from data_plugin.utils.errors import UserError

SEARCH_FILE = "search.json"
"""The report of a finished search, in its output folder."""

FORMAT = 3
"""Of that file."""

NEAR = 20
"""Networks that are named of those that the images do not tell apart from a winner."""

Checks = Mapping[str, Callable[[Arch], tuple[float, float]]]
"""Per quantity that is composed of blocks and can be measured here, what gives a network's cost in both ways."""


@dataclass(frozen=True)
class Candidates:
    """The networks that were compared on all images, closest first; a column for everything that is known of them.

    Args:
        archs: the networks.
        budgets: the names of the budgets that each is within.
        flops: multiply-accumulates at 224 x 224, (N,).
        params: parameters, (N,).
        costs: what they cost in the quantities that a budget bounds, in multiply-accumulates, numbers, s and bytes.
        scores: mean divergence from the teacher, added up over the taps, (N,).
        standard_errors: of the scores over the images, (N,); NaN for a single image.
        sampling_errors: the part of these that comes from drawing rows of the relation, (N,).
        taps: mean divergence at each tap, (N,).
    """

    archs: Sequence[Arch]
    budgets: Sequence[Sequence[str]]
    flops: np.ndarray
    params: np.ndarray
    costs: Mapping[str, np.ndarray]
    scores: np.ndarray
    standard_errors: np.ndarray
    sampling_errors: np.ndarray
    taps: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.archs)

    def rows(self, first: int | None = None) -> Iterator[dict[str, Any]]:
        """One mapping of JSON values a network; of the first ones, if a number is given."""
        for i, arch in enumerate(self.archs[:first]):
            yield {
                "arch": str(arch),
                "budgets": list(self.budgets[i]),
                "flops": int(self.flops[i]),
                "params": int(self.params[i]),
                "costs": {quantity: float(values[i]) for quantity, values in self.costs.items()},
                "score": float(self.scores[i]),
                "standard_error": _finite(self.standard_errors[i]),
                "sampling_error": float(self.sampling_errors[i]),
                "taps": {tap: float(values[i]) for tap, values in self.taps.items()},
            }

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Candidates:
        """What :meth:`rows` gave."""

        def column(*keys: str) -> np.ndarray:
            values = [row[keys[0]] if len(keys) == 1 else row[keys[0]][keys[1]] for row in rows]
            return np.array([float("nan") if value is None else value for value in values])

        return cls(
            archs=[Arch.parse(row["arch"]) for row in rows],
            budgets=[tuple(row["budgets"]) for row in rows],
            flops=column("flops"),
            params=column("params"),
            costs={quantity: column("costs", quantity) for quantity in rows[0]["costs"]},
            scores=column("score"),
            standard_errors=column("standard_error"),
            sampling_errors=column("sampling_error"),
            taps={tap: column("taps", tap) for tap in rows[0]["taps"]},
        )


@dataclass(frozen=True)
class Winner:
    """The closest network within a budget, or one of its Pareto front: the closest that costs no more than itself.

    Args:
        budget: the name of the budget.
        arch: the network.
        flops: its multiply-accumulates at 224 x 224.
        params: its parameters.
        costs: what it costs in the quantities that the budget bounds, in multiply-accumulates, numbers, s and bytes.
        score: its mean divergence from the teacher.
        standard_error: of the score over the images; None for a single image.
        sampling_error: the part of the standard error that comes from drawing rows of the relation.
        compared: networks that it was chosen among: within the budget and, on a front, at no more cost.
        runner_up: the second closest of these, None where there is none.
        lead: how much further the runner-up is, paired over the images.
        lead_error: standard error of the lead; None for a single image.
        not_told_apart: how many of the compared ones the images do not tell apart from the winner, at
            :data:`~data_plugin.search.certainty.CONFIDENCE`.
        near: the closest of these, at most :data:`NEAR`.
        measured: per quantity of the budget that is measured on this device, its cost composed of its blocks and
            measured whole, in s or bytes.
        exceeded: those of the measured quantities in which the whole network is not within the budget.
        folder: where the winner is, relative to the output folder.
    """

    budget: str
    arch: Arch
    flops: int
    params: int
    costs: Mapping[str, float]
    score: float
    standard_error: float | None
    sampling_error: float
    compared: int
    runner_up: Arch | None
    lead: float | None
    lead_error: float | None
    not_told_apart: int
    near: Sequence[Arch]
    measured: Mapping[str, tuple[float, float]]
    exceeded: Sequence[str]
    folder: str

    @property
    def told_apart(self) -> bool:
        """Whether the images tell the winner apart from every other network."""
        return self.runner_up is not None and not self.not_told_apart

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, architectures as their canonical strings."""
        return {
            **vars(self),
            "arch": str(self.arch),
            "runner_up": None if self.runner_up is None else str(self.runner_up),
            "near": [str(arch) for arch in self.near],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Winner:
        """What :meth:`to_json` gave."""
        runner_up = value["runner_up"]
        return cls(
            **{
                **value,
                "arch": Arch.parse(value["arch"]),
                "runner_up": None if runner_up is None else Arch.parse(runner_up),
                "near": [Arch.parse(name) for name in value["near"]],
                "measured": {quantity: tuple(pair) for quantity, pair in value["measured"].items()},
            }
        )


@dataclass(frozen=True)
class Images:
    """The images of a search.

    Args:
        names: what identifies each, in the order in which they were drawn.
        sha256: over the pixels as the networks saw them.
        batches: number of batches.
        split: how many of these were compared in parts to stay within the memory bound.
        most_parts: the most parts of a batch.
    """

    names: Sequence[str]
    sha256: str
    batches: int
    split: int
    most_parts: int


@dataclass(frozen=True)
class SearchReport:
    """A finished search.

    Args:
        config: name or path of the framework's config.
        framework: the framework.
        data_root: folder of the data sets; None where the config's own was taken.
        taps: the feature maps that were compared.
        budgets: names of the budgets.
        pareto: whether the answer is the whole front of every budget instead of one network.
        input_size: height and width at which FLOPs of budgets are counted and costs measured; None for 224 x 224 and
            the config's.
        chosen: how the candidates came about.
        reduction: what became of the positions of a map.
        norm: what batch norms normalised with.
        precision: of the features.
        rows: rows of the relation that were drawn per image and tap; None for all.
        entropy: what the mean distance of Eq. 5 has beyond every score.
        images: the images.
        winners: the answer.
        candidates: all networks that were compared on all images.
        random: whether they are a random draw, or all, of the networks within each budget.
        rivals: per budget, what one would take without a search.
        knowledge: what the teacher knows of the images; None where they were too few to say.
        finetuning: what winners and rivals came to in the framework; None before they were fine-tuned.
        rank_checks: by budget, how well its networks were ranked, as fine-tuning found; empty before it was looked at.
        dropped: networks that a strategy dropped before, with the images that they saw and their score on these.
        run: everything else that was run (supernet, options, seed, versions), JSON values.
    """

    config: str
    framework: str
    data_root: str | None
    taps: Sequence[str]
    budgets: Sequence[str]
    pareto: bool
    input_size: tuple[int, int] | None
    chosen: str
    reduction: str
    norm: str
    precision: str
    rows: int | None
    entropy: float
    images: Images
    winners: Sequence[Winner]
    candidates: Candidates
    random: bool = False
    rivals: Sequence[Rival] = ()
    knowledge: Knowledge | None = None
    finetuning: Finetuning | None = None
    rank_checks: Mapping[str, RankCheck] = field(default_factory=dict)
    dropped: Mapping[Arch, tuple[int, float]] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, the winners first and the candidates last."""
        apart = (
            "winners",
            "candidates",
            "rivals",
            "knowledge",
            "finetuning",
            "rank_checks",
            "dropped",
            "images",
            "run",
        )
        own = {name: value for name, value in vars(self).items() if name not in apart}
        dropped = [
            {"arch": str(arch), "images": images, "score": score} for arch, (images, score) in self.dropped.items()
        ]
        return {
            "format": FORMAT,
            **own,
            "run": self.run,
            "images": vars(self.images),
            "knowledge": None if self.knowledge is None else self.knowledge.to_json(),
            "winners": [winner.to_json() for winner in self.winners],
            "finetuning": None if self.finetuning is None else self.finetuning.to_json(),
            "rank_checks": {name: check.to_json() for name, check in self.rank_checks.items()},
            "rivals": [rival.to_json() for rival in self.rivals],
            "dropped": dropped,
            "candidates": list(self.candidates.rows()),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchReport:
        """What :meth:`to_json` gave."""
        values = {name: entry for name, entry in value.items() if name != "format"}
        size, known, tuned = values["input_size"], values.get("knowledge"), values.get("finetuning")
        return cls(
            **{
                **values,
                "input_size": None if size is None else (size[0], size[1]),
                "images": Images(**value["images"]),
                "knowledge": None if known is None else Knowledge.from_json(known),
                "finetuning": None if tuned is None else Finetuning.from_json(tuned),
                "rank_checks": {
                    name: RankCheck.from_json(check) for name, check in values.get("rank_checks", {}).items()
                },
                "winners": [Winner.from_json(each) for each in value["winners"]],
                "rivals": [Rival.from_json(each) for each in value["rivals"]],
                "dropped": {Arch.parse(row["arch"]): (row["images"], row["score"]) for row in value["dropped"]},
                "candidates": Candidates.from_rows(value["candidates"]),
            }
        )

    @classmethod
    def read(cls, folder: str | Path) -> SearchReport:
        """The report of a search's output folder, from its ``search.json``.

        Raises:
            UserError: if there is none or it cannot be read.
        """
        path = Path(folder) / SEARCH_FILE
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(contents, dict) or contents.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT}")
            return cls.from_json(contents)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected the output folder of a finished search of this version"
            ) from error

    @cached_property
    def farthest(self) -> float:
        """The score of the network that is farthest from the teacher, of all that were compared on all images."""
        return max([float(self.candidates.scores.max()), *(rival.score for rival in self.rivals)])

    def share(self, score: float) -> float:
        """How much of the way from the farthest network, 0, to the teacher, 1, a score has come."""
        return 1 - score / self.farthest if self.farthest else 1.0

    def closest(self, budget: str) -> Winner:
        """The winner of a budget, by its name, or the closest network of its front."""
        return min((each for each in self.winners if each.budget == budget), key=lambda each: each.score)

    def scores_within(self, budget: str) -> np.ndarray:
        """The scores (N,) of the candidates of a budget, by its name."""
        inside = [budget in budgets for budgets in self.candidates.budgets]
        return self.candidates.scores[inside]

    @cached_property
    def more_costs(self) -> list[str]:
        """The bounded quantities that columns of parameters, and of FLOPs at 224 x 224, do not show already."""
        shown = ("params",) if self.input_size else ("params", "flops")
        return [quantity for quantity in self.candidates.costs if quantity not in shown]


def tabulate(outcome: Outcome, costs: Costs) -> Candidates:
    """The networks of an outcome with their costs, closest first.

    Args:
        outcome: what a strategy found.
        costs: what gives the costs that a budget bounds.
    """
    result = outcome.result
    order = sorted(range(len(result.archs)), key=lambda i: (result.scores[i], result.archs[i]))
    archs = [result.archs[i] for i in order]
    budgets: dict[Arch, list[str]] = {arch: [] for arch in archs}
    for budget, within in outcome.candidates.items():
        for arch in within:
            budgets[arch].append(budget)
    table = np.array([arch.row for arch in archs])
    return Candidates(
        archs=archs,
        budgets=[tuple(budgets[arch]) for arch in archs],
        flops=cost.flops(table),
        params=cost.params(table),
        costs={quantity: cost_of(table) for quantity, cost_of in costs.items()},
        scores=result.scores[order],
        standard_errors=result.standard_errors[order],
        sampling_errors=result.sampling_errors[order],
        taps={name: tap.scores[order] for name, tap in result.taps.items()},
    )


def pick_winner(result: SearchResult, budget: Budget, among: Sequence[Arch], costs: Costs, checks: Checks) -> Winner:
    """The closest of some networks within a budget, and how sure that is.

    Args:
        result: divergences of at least these networks.
        budget: the budget.
        among: networks within it, at least one.
        costs: what gives the costs that the budget bounds.
        checks: compare composed costs with those of the whole network.
    """
    first, *others = result.ranking(among)
    arch = result.archs[first]
    behind = surely_behind(result, first, others, CONFIDENCE)
    near = [result.archs[i] for i, is_behind in zip(others, behind, strict=True) if not is_behind]
    leads, lead_errors = result.apart(first, others[:1])
    measured = {quantity: checks[quantity](arch) for quantity in budget.quantities if quantity in checks}
    return Winner(
        budget=budget.name,
        arch=arch,
        flops=cost.flops(arch),
        params=cost.params(arch),
        costs={quantity: float(costs[quantity](np.array([arch.row]))[0]) for quantity in budget.quantities},
        score=float(result.scores[first]),
        standard_error=_finite(result.standard_errors[first]),
        sampling_error=float(result.sampling_errors[first]),
        compared=len(among),
        runner_up=result.archs[others[0]] if others else None,
        lead=float(leads[0]) if others else None,
        lead_error=_finite(lead_errors[0]) if others else None,
        not_told_apart=len(near),
        near=near[:NEAR],
        measured=measured,
        exceeded=[
            limit.quantity
            for limit in budget.limits
            if limit.quantity in measured and not limit.holds(np.array(measured[limit.quantity][1]))
        ],
        folder=f"winners/{budget.folder}",
    )


def pick_front(
    result: SearchResult, budget: Budget, among: Sequence[Arch], costs: Costs, checks: Checks
) -> list[Winner]:
    """The networks that none is closer than at no more cost, in every quantity that a budget bounds, cheapest first.

    Args are those of :func:`pick_winner`. Each is the winner among the networks that cost no more than itself.
    """
    table = np.array([arch.row for arch in among])
    paid = np.column_stack([costs[quantity](table) for quantity in budget.quantities])
    scores = [result.scores[result.index[arch]] for arch in among]
    winners = []
    for member in pareto_front(np.column_stack([paid, scores])):
        affordable = np.flatnonzero((paid <= paid[member]).all(axis=1))
        winner = pick_winner(result, budget, [among[i] for i in affordable], costs, checks)
        winners.append(replace(winner, folder=f"{winner.folder}/{winner.arch}"))
    return winners


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
