"""Does a search rank networks as the user's own fine-tuning does? The user's own version of DATA's Table 2."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        seeds: the seeds of each one's trainings.
    """

    networks: Mapping[str, Sequence[Arch]]
    seeds: Sequence[int]

    @property
    def trainings(self) -> list[Training]:
        """Every training once, all networks with the first seed before any with the next."""
        archs = dict.fromkeys(arch for within in self.networks.values() for arch in within)
        return [Training(str(arch), arch, "supernet", seed) for seed in self.seeds for arch in archs]


def plan_rank_check(
    report: SearchReport, budgets: Sequence[str] | None = None, networks: int = 16, seeds: Sequence[int] = (0, 1)
) -> RankCheckPlan:
    """Choose what is fine-tuned.

    Args:
        report: the search's.
        budgets: names of some of its budgets; None takes all.
        networks: how many networks of every budget: its closest one, and others at random that are spread over its
            candidates by their FLOPs.
        seeds: the framework's seeds; every network is trained with each.

    Raises:
        UserError: if a budget is none of the search, there are too few networks, or a seed comes twice.
    """
    chosen = list(report.budgets if budgets is None else dict.fromkeys(budgets))
    unknown = [name for name in chosen if name not in report.budgets]
    if unknown:
        raise UserError(f"the search has no budget {unknown[0]!r}; expected some of {', '.join(report.budgets)}")
    if networks < FEWEST:
        raise UserError(f"{networks} networks were asked for; expected {FEWEST} at least, and better 16 or more")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds are {' '.join(map(str, seeds)) or 'none'}; expected one at least, each once")
    return RankCheckPlan({name: _spread(report, name, networks) for name in chosen}, list(seeds))


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
    checks = {name: _check(search.report, archs, plan.seeds, steps, comparison) for name, archs in groups.items()}
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


def _check(
    report: SearchReport, archs: Sequence[Arch], seeds: Sequence[int], length: str, comparison: Comparison
) -> RankCheck:
    """How well some networks that were fine-tuned are ranked."""
    scores = dict(zip(report.candidates.archs, report.candidates.scores.tolist(), strict=True))
    values = {(each.arch, each.seed): each.metrics[comparison.metric] for each in comparison.finetuned}
    networks = [
        Ranked(
            arch,
            {DISTANCE: scores[arch], **{name: float(of(arch)) for name, of in RIVALS.items()}},
            [values[arch, seed] for seed in seeds],
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
    agreed = statistics.agreement(np.array([network.values for network in networks]))
    return RankCheck(
        metric=comparison.metric,
        length=length,
        seeds=list(seeds),
        agreement=_known(agreed),
        reach=_known(statistics.reach(agreed, len(seeds))),
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
