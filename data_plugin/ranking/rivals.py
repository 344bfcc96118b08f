"""The winners of a search and what one would take without it, fine-tuned alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_plugin.frameworks.finetuned import Finetuned, Training
from data_plugin.ranking.classified import LabelledImages
from data_plugin.ranking.searched import finetune_searched
from data_plugin.search.found import Search
from data_plugin.search.report.finetuning import RANDOM, WINNER, Finetuning
from data_plugin.search.report.folder import write_report
from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.rivals import RESNET50
from data_plugin.space.arch import Arch

FOLDER = "finetuned"
"""Where the trainings are, below a search's output folder."""


def finetune_rivals(
    search: Search,
    length: int,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
    *,
    seeds: Sequence[int] | None = None,
    also: Mapping[str, Arch] | None = None,
    labelled: LabelledImages | None = None,
) -> Search:
    """Fine-tune the winner of every budget and its rivals, and add what they come to to the search's report.

    All start from the supernet; the network of ResNet-50's shape starts from random weights, too, but not for
    classification. Goes on with what an earlier call of the same length has left.

    Args:
        search: a finished search.
        length: of every training, at least 1: iterations, and epochs of a search for classification.
        done: called with every training that is done.
        seeds: the seeds of each one's trainings; None takes the search's.
        also: further networks by name, which every budget's are compared with.
        labelled: labelled images for a search for classification, which has none; None for the others.

    Returns:
        The search with the new report.

    Raises:
        UserError: if the supernet is not the one that was searched, or the config cannot be trained, see
            :func:`finetune_searched`; what is finished stays.
    """
    report = search.report
    wanted = {
        budget: [
            dataclasses.replace(training, seed=seed)
            for seed in (seeds or [report.run["seed"]])
            for training in trainings_of(report, budget, also)
            if labelled is None or training.weights == "supernet"
        ]
        for budget in report.budgets
    }
    trainings = [training for each in wanted.values() for training in each]
    resume = (search.out / FOLDER).is_dir()
    comparison = finetune_searched(search, trainings, FOLDER, length, resume, done, labelled)
    metrics = {each.training: each.metrics for each in comparison.finetuned}
    networks = {
        budget: [Finetuned(**vars(each), metrics=metrics[each.arch, each.weights, each.seed]) for each in trainings]
        for budget, trainings in wanted.items()
    }
    found = dataclasses.replace(report, finetuning=Finetuning(comparison.metric, length, networks))
    write_report(search.out, found)
    return Search(search.out, found)


def trainings_of(report: SearchReport, budget: str, also: Mapping[str, Arch] | None = None) -> list[Training]:
    """What is fine-tuned of a budget: its closest network, its rivals and, of a random draw, one of the candidates.

    Args:
        report: the search's.
        budget: the budget's name.
        also: further networks by name.
    """
    seed = report.run["seed"]
    rivals = [rival for rival in report.rivals if rival.budget == budget]
    trainings = [Training(WINNER, report.closest(budget).arch, "supernet", seed)]
    trainings += [Training(rival.name, rival.arch, "supernet", seed) for rival in rivals]
    if report.random:
        within = sorted(
            arch
            for arch, budgets in zip(report.candidates.archs, report.candidates.budgets, strict=True)
            if budget in budgets
        )
        drawn = within[np.random.default_rng(seed).integers(len(within))]
        trainings.append(Training(RANDOM, drawn, "supernet", seed))
    trainings += [Training(name, arch, "supernet", seed) for name, arch in (also or {}).items()]
    trainings += [Training(rival.name, rival.arch, "random", seed) for rival in rivals if rival.name == RESNET50]
    return trainings
