"""Does a search rank networks as the user's own fine-tuning does? The user's own version of DATA's Table 2."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import harmonic_mean
from typing import Any

import numpy as np

from data_plugin.frameworks.finetuned import Finetuned, Training
from data_plugin.ranking import statistics
from data_plugin.ranking.classified import LabelledImages
from data_plugin.ranking.run import Comparison
from data_plugin.ranking.searched import finetune_searched
from data_plugin.search.found import Search
from data_plugin.search.report.folder import write_report
from data_plugin.search.report.rank_check import CHANCE, DISTANCE, TOGETHER, Predictor, RankCheck, Ranked
from data_plugin.search.report.search_report import SearchReport
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

FOLDER = "rank_check"
"""Where the trainings are, below a search's output folder."""

RANKING = "ranking.json"
"""The file in a search's output folder that holds what was fine-tuned and how well it was ranked."""

FEWEST = 4
"""Networks below which a rank correlation says nothing."""

RIVALS: Mapping[str, Callable[[Arch], float]] = {
    "FLOPs": cost.flops,
    "parameters": cost.params,
    "channels of C5": lambda arch: arch.out_channels[-1],
    "depth": lambda arch: sum(arch.depth),
}
"""What ranks networks without a search, the larger the better."""


@dataclass(frozen=True)
class RankCheckPlan:
    """What a rank check fine-tunes.

    Args:
        networks: the networks of every budget, by its name, cheapest first.
        seeds: the seeds of trainings.
        repeated: the networks that are trained with all of them; the others are with the first.
    """

    networks: Mapping[str, Sequence[Arch]]
    seeds: Sequence[int]
    repeated: Collection[Arch]

    def seeds_of(self, arch: Arch) -> Sequence[int]:
        """The seeds of a network's trainings."""
        return self.seeds if arch in self.repeated else self.seeds[:1]

    @property
    def trainings(self) -> list[Training]:
        """Every training once, all networks with the first seed before any with the next."""
        archs = dict.fromkeys(arch for within in self.networks.values() for arch in within)
        return [
            Training(str(arch), arch, "supernet", seed)
            for seed in self.seeds
            for arch in archs
            if seed in self.seeds_of(arch)
        ]


def plan_rank_check(
    report: SearchReport,
    budgets: Sequence[str] | None = None,
    networks: int | Mapping[str, int] = 16,
    seeds: Sequence[int] = (0, 1),
    repeated: int | None = None,
) -> RankCheckPlan:
    """Choose what is fine-tuned.

    Args:
        report: the search's.
        budgets: names of some of its budgets; None takes all.
        networks: how many networks of every budget, one number or one by its name: its closest one, and others at
            random that are spread over its candidates by their FLOPs.
        seeds: the framework's seeds.
        repeated: how many networks of every budget are trained with each seed, from the cheapest to the dearest; the
            others are with the first alone. None trains all with each.

    Raises:
        UserError: if a budget is none of the search, there are too few networks, of all or of those with each seed, or
            a seed comes twice.
    """
    chosen = list(report.budgets if budgets is None else dict.fromkeys(budgets))
    unknown = [name for name in chosen if name not in report.budgets]
    if unknown:
        raise UserError(f"the search has no budget {unknown[0]!r}; expected some of {', '.join(report.budgets)}")
    counts = dict.fromkeys(chosen, networks) if isinstance(networks, int) else networks
    fewest = min(counts[name] for name in chosen)
    if fewest < FEWEST:
        raise UserError(f"{fewest} networks were asked for; expected {FEWEST} at least, and better 16 or more")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds are {' '.join(map(str, seeds)) or 'none'}; expected one at least, each once")
    if repeated is not None and repeated < FEWEST:
        raise UserError(f"{repeated} networks were asked for with all seeds; expected {FEWEST} at least, or 8 or more")
    within = {name: _spread(report, name, counts[name]) for name in chosen}
    again = {arch for archs in within.values() for arch in _evenly(archs, repeated or len(archs))}
    return RankCheckPlan(within, list(seeds), again)


def check_ranking(
    search: Search,
    plan: RankCheckPlan,
    length: int,
    *,
    labelled: LabelledImages | None = None,
    resume: bool = False,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
) -> Search:
    """Fine-tune networks of a search alike, and add to its report how well its distance has ranked them.

    Args:
        search: a finished search.
        plan: what is fine-tuned.
        length: of every training, at least 1: iterations, and epochs of a search for classification.
        labelled: labelled images for a search for classification, which has none; None for the others.
        resume: go on with what an earlier call of the same length has left; networks that it has trained are taken.
        done: called with every training that is done.

    Returns:
        The search with the new report; :data:`RANKING` has the same figures with what decided them.

    Raises:
        UserError: if anything does not fit, see :func:`finetune_searched`; what is finished stays.
    """
    comparison = finetune_searched(search, plan.trainings, FOLDER, length, resume, done, labelled)
    steps = f"{length} {'iterations' if labelled is None else 'epochs'}"
    groups = dict(plan.networks)
    if len(groups) > 1:
        groups[TOGETHER] = list(dict.fromkeys(arch for within in groups.values() for arch in within))
    checks = {name: _check(search.report, archs, plan, steps, comparison) for name, archs in groups.items()}
    written: dict[str, Any] = {"settings": dict(comparison.settings), "supernet": search.report.run["supernet"]}
    written["checks"] = {name: check.to_json() for name, check in checks.items()}
    text = json.dumps(written, indent=1) + "\n"
    write_whole(search.out / RANKING, lambda path: path.write_text(text, encoding="utf-8"))
    report = replace(search.report, rank_checks=checks)
    write_report(search.out, report)
    return Search(search.out, report)


def _spread(report: SearchReport, budget: str, count: int) -> list[Arch]:
    """The closest network of a budget and others of its candidates, one of each of as many parts by their FLOPs."""
    candidates = report.candidates
    within = [i for i, budgets in enumerate(candidates.budgets) if budget in budgets]
    if len(within) < FEWEST:
        raise UserError(
            f"{len(within)} networks of {budget} were compared on all images; expected {FEWEST} at least to fine-tune: "
            "search with more --samples, or without --halve"
        )
    winner = report.closest(budget).arch
    rng = np.random.default_rng(report.run["seed"])
    by_cost = sorted(within, key=lambda i: (candidates.flops[i], candidates.archs[i]))
    chosen = []
    for part in np.array_split(by_cost, min(count, len(by_cost))):
        archs = [candidates.archs[i] for i in part]
        drawn = archs[rng.integers(len(archs))]
        chosen.append(winner if winner in archs else drawn)
    return chosen


def _evenly(archs: Sequence[Arch], count: int) -> list[Arch]:
    """So many of them, the first and the last among them."""
    return [archs[round(place)] for place in np.linspace(0, len(archs) - 1, min(count, len(archs)))]


def _check(
    report: SearchReport, archs: Sequence[Arch], plan: RankCheckPlan, length: str, comparison: Comparison
) -> RankCheck:
    """How well some networks that were fine-tuned are ranked."""
    scores = dict(zip(report.candidates.archs, report.candidates.scores.tolist(), strict=True))
    values = {(each.arch, each.seed): each.metrics[comparison.metric] for each in comparison.finetuned}
    networks = [
        Ranked(
            arch,
            {DISTANCE: scores[arch], **{name: float(of(arch)) for name, of in RIVALS.items()}},
            [values[arch, seed] for seed in plan.seeds_of(arch)],
        )
        for arch in archs
    ]
    metric = np.array([network.mean for network in networks])
    predictors = []
    for name in networks[0].predictors:
        column = np.array([network.predictors[name] for network in networks])
        predictors.append(_predictor(name, -column if name == DISTANCE else column, metric))
    by_chance = statistics.chance_interval(len(networks))
    predictors.append(Predictor(CHANCE, 0.0, (by_chance.low, by_chance.high), float(metric.mean())))
    repeated = [network.values for network in networks if network.arch in plan.repeated]
    agreed = statistics.agreement(np.array(repeated))
    trainings = harmonic_mean([len(network.values) for network in networks])
    return RankCheck(
        metric=comparison.metric,
        length=length,
        seeds=list(plan.seeds),
        agreement=_known(agreed),
        reach=_known(statistics.reach(agreed, trainings)),
        predictors=predictors,
        networks=networks,
    )


def _predictor(name: str, column: np.ndarray, metric: np.ndarray) -> Predictor:
    """How well a figure, of which more is better, ranks networks by their metric."""
    low, high = statistics.bootstrap_interval(column, metric)
    return Predictor(
        name,
        spearman=_known(statistics.spearman(column, metric)),
        interval=None if math.isnan(low) else (low, high),
        picked=statistics.picked(column, metric) if np.ptp(column) else None,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
