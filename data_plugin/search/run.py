"""One search from a framework's config to an output folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_plugin.frameworks.framework import Task
from data_plugin.search.comparison import Reduction
from data_plugin.search.description import description, latency_source, search_teacher, supernet_description
from data_plugin.search.found import Search
from data_plugin.search.knowledge import Knowledge, knowledge_of, passes
from data_plugin.search.options import DRAWN, SearchOptions
from data_plugin.search.plan import SearchPlan, foresee
from data_plugin.search.prepared import PreparedSearch, prepare
from data_plugin.search.report.folder import PARTIAL, write_search
from data_plugin.search.report.search_report import Images, SearchReport, Winner, pick_front, pick_winner, tabulate
from data_plugin.search.report.words import knowledge_text, supernet_text
from data_plugin.search.resume import RUN_FILE, PartialSearch, open_partial
from data_plugin.search.rivals import Beside, Rival
from data_plugin.search.strategies.sample import Sample
from data_plugin.search.strategies.strategy import Candidates, Outcome, Strategy, distinct
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget
from data_plugin.space.measured_cost import MeasuredCosts
from data_plugin.supernet.backbone_files import PTH_FILE
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import from_first, joined_ranks, rank, rank_count

PLANNED = 100
"""Networks a budget that stand for those that a strategy finds on the way, where their cost is foreseen."""

_DECIDES = ("config", "image_size", "input_size", "reduction", "norm", "precision", "relation_rows")
"""Options that decide what is measured and are not in the report's ``run``."""


def search_supernet(
    supernet: str | os.PathLike[str],
    config: str | Path,
    *,
    out: str | Path,
    budget: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    every_group: bool = False,
    data_root: str | Path | None = None,
    images: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    image_count: int | None = 256,
    batch_size: int = 4,
    strategy: Strategy = DRAWN,
    pareto: bool = False,
    task: Task | None = None,
    framework: str | None = None,
    classes: Sequence[str] | None = None,
    options: Sequence[str] = (),
    taps: Sequence[str] | None = None,
    reduction: Reduction = "mean",
    norm: str = "batch",
    precision: str = "float32",
    relation_rows: int | None = None,
    search_teacher: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
    latency_table: str | os.PathLike[str] | None = None,
    max_memory: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
) -> Search:
    """Search a supernet for the backbone that keeps most of its knowledge of a config's images, in a budget.

    What is not explained here is as in :class:`~data_plugin.search.options.SearchOptions`.

    Args:
        supernet: what :func:`~data_plugin.pretrain_supernet` returned, the path of a ``supernet.safetensors``, or
            "shipped" for the one that comes with the package.
        config: a config of detectron2, MMDetection or MMSegmentation: one of ours by its name, a path, or one of the
            framework's model zoo by its name; with ``task="classification"`` a folder of images.
        out: the output folder.
        budget: bounds such as ``"flops<=4.0G and params<=30M"``, or several of them.
        group: bounds in GFLOPs such as ``"3-4"``, or several of them; without a budget either, all groups of the space.
        data_root: folder of the data sets; None leaves the config's.
        images: a folder of images, or a text file that names them, to search on; None takes the config's training
            images.
        image_count: how many of these are drawn; None takes all.
        strategy: how candidates are found, such as ``Exhaustive()`` or ``Evolution()``; 100 a budget are drawn.
        options: ``KEY=VALUE`` changes of the config.

    Returns:
        The search, with its winners; what ``out`` holds.

    Raises:
        UserError: if anything that was given does not fit; nothing is written then.
    """
    given = dict(locals())  # most parameters are fields of SearchOptions, which are not listed once more
    groups, bounds = ([each] if isinstance(each, str) else each for each in (given.pop("group"), given.pop("budget")))
    given["budgets"] = [*map(Budget.group, groups), *map(Budget.parse, bounds)]
    given |= {"config": str(config), "out": Path(out), "data_root": None if data_root is None else Path(data_root)}
    found = run_search(SearchOptions(**given))
    return Search.read(out) if found is None else found


def run_search(options: SearchOptions, announce: Callable[[SearchPlan], None] | None = None) -> Search | None:
    """Search a supernet on the images of a framework's config and write the output folder.

    Args:
        options: what to run.
        announce: is told, in the first process, what is about to be done, which takes a few networks on one batch.

    Returns:
        The search; None in processes other than the first of several.

    Raises:
        UserError: if anything that the user gave does not fit; nothing is written then.
    """
    with joined_ranks():
        prepared = prepare(options)
        known = _knowledge(prepared)
        unfinished = from_first(_open(prepared) if rank() == 0 else None)
        assert unfinished is not None
        if announce is not None:
            plan = _plan(prepared, unfinished.candidates, known)
            if rank() == 0:
                announce(plan)
        return _run(prepared, unfinished, known)


def plan_search(options: SearchOptions) -> SearchPlan | None:
    """Get ready for a search without beginning it, and tell what it would do; nothing is written.

    Args:
        options: what would be run.

    Returns:
        The plan; None in processes other than the first of several.

    Raises:
        UserError: if anything that the user gave does not fit.
    """
    with joined_ranks():
        prepared = prepare(options)
        plan = _plan(prepared, prepared.draw(), _knowledge(prepared))
        return plan if rank() == 0 else None


def _knowledge(prepared: PreparedSearch) -> Knowledge | None:
    """What the teacher knows of the images, found out by the first process for all."""
    known = None
    if rank() == 0 and passes(prepared.batches) and not prepared.options.search_teacher:
        with progress_over(passes(prepared.batches), "images x networks to see what the teacher knows") as advance:
            known = knowledge_of(prepared.searcher.supernet.key, prepared.batches, prepared.options.seed, advance)
    return from_first(known)


def _plan(prepared: PreparedSearch, candidates: Candidates, known: Knowledge | None) -> SearchPlan:
    """What the search is about to do; every process has to call it."""
    options, searcher, batches, downstream = prepared.options, prepared.searcher, prepared.batches, prepared.downstream
    networks = options.strategy.most(candidates, len(prepared.budgets))
    like = candidates or Sample(PLANNED).candidates(prepared.space, prepared.within, options.seed)
    beside = {arch for _, _, arch in prepared.rivals}.difference(distinct(candidates))
    flops, seconds = foresee(searcher, batches, distinct(like), networks + len(beside), downstream.resolution.strides)
    return SearchPlan(
        model=downstream.model,
        config=options.config,
        supernet=supernet_text(supernet_description(prepared), prepared.supernet.info.training),
        teacher=knowledge_text(known, search_teacher(prepared)),
        data=downstream.place,
        lacking=downstream.lacking,
        images=sum(map(len, batches.parts)),
        of=len(batches.source),
        taps=searcher.taps,
        budgets={budget.name: len(candidates[budget.name]) if candidates else None for budget in prepared.budgets},
        latency=latency_source(prepared),
        networks=networks,
        rivals=len(beside),
        flops=flops,
        seconds=seconds,
        device=str(searcher.device),
        out=prepared.out,
    )


def _run(prepared: PreparedSearch, unfinished: PartialSearch, known: Knowledge | None) -> Search | None:
    """Search, and write the output folder; the search in the first process alone."""
    searcher, batches = prepared.searcher, prepared.batches
    searcher.require_room(batches)
    outcome, rivals = _searched(prepared, unfinished)
    if rank() != 0:
        return None
    report = _report(prepared, outcome, rivals, known)
    archs = [winner.arch for winner in report.winners]
    with progress_over(sum(map(len, batches.parts)), "images for the winners' batch norms") as advance:
        networks = searcher.extract(archs, batches, advance)
    write_search(prepared.out, report, networks, partial(_write_configs, prepared))
    return Search(prepared.out, report)


def _searched(prepared: PreparedSearch, unfinished: PartialSearch) -> tuple[Outcome, list[Rival]]:
    """What the strategy finds, and its rivals, going on where an earlier search of the output folder stopped."""
    options, batches = prepared.options, prepared.batches
    named = prepared.rivals
    archs = sorted({arch for _, _, arch in named})
    most = options.strategy.most(unfinished.candidates, len(prepared.budgets))
    with progress_over((most + len(archs)) * len(batches), "networks x batches") as advance:
        # Every process settles its share at about the same pace; the first one shows that of all.
        measurement = prepared.searcher.on(
            batches, unfinished, lambda networks: advance(networks * rank_count()), options.strategy.comes_back
        )
        outcome = options.strategy.search(
            Beside(measurement, archs), unfinished.candidates, prepared.space, prepared.within, options.seed
        )
        result = measurement.measure(archs)
    scores = dict(zip(result.archs, result.scores.tolist(), strict=True))
    return outcome, [
        Rival(budget, name, arch, cost.flops(arch), cost.params(arch), scores[arch]) for budget, name, arch in named
    ]


def _report(
    prepared: PreparedSearch, outcome: Outcome, rivals: Sequence[Rival], known: Knowledge | None
) -> SearchReport:
    options, budgets, costs, result = prepared.options, prepared.budgets, prepared.costs, outcome.result
    winners: list[Winner] = []
    here = ("memory",) if prepared.latency_table else ("latency", "memory")
    checks = {quantity: partial(_check, prepared.measured, quantity) for quantity in here}
    for budget in budgets:
        among = (result, budget, outcome.candidates[budget.name], costs, checks)
        winners += pick_front(*among) if options.pareto else [pick_winner(*among)]
    bounded = {quantity: costs[quantity] for budget in budgets for quantity in budget.quantities}
    return SearchReport(
        config=options.config,
        framework=prepared.downstream.framework,
        data_root=None if options.data_root is None else str(options.data_root),
        taps=prepared.searcher.taps,
        budgets=[budget.name for budget in budgets],
        pareto=options.pareto,
        input_size=options.input_size,
        chosen=options.strategy.chosen,
        reduction=options.reduction,
        norm=options.norm,
        precision=options.precision,
        rows=options.relation_rows,
        entropy=result.entropy,
        images=Images(
            names=result.images,
            sha256=result.data_hash,
            batches=len(result.parts),
            split=sum(count > 1 for count in result.parts),
            most_parts=max(result.parts),
        ),
        winners=winners,
        candidates=tabulate(outcome, bounded),
        random=options.strategy.random,
        rivals=rivals,
        knowledge=known,
        dropped=outcome.dropped,
        run={
            **description(prepared),
            "asked_for": options.decisive(),
            "winner_norm_statistics": "recalibrated on the images of the search",
        },
    )


def _open(prepared: PreparedSearch) -> PartialSearch:
    """The unfinished search of the output folder, or a new one with candidates for every budget."""
    options = prepared.options
    if options.overwrite:
        # First what makes the batches a search's, so that a kill in between leaves none that could be gone on with.
        (prepared.out / PARTIAL / RUN_FILE).unlink(missing_ok=True)
    decides = {
        **description(prepared),
        **{name: getattr(options, name) for name in _DECIDES},
        "data_root": None if options.data_root is None else str(options.data_root),
        "framework": prepared.downstream.framework,
        "taps": list(prepared.searcher.taps),
        "budgets": [budget.name for budget in prepared.budgets],
    }
    return open_partial(prepared.out / PARTIAL, decides, prepared.draw)


def _check(measured: MeasuredCosts, quantity: str, arch: Arch) -> tuple[float, float]:
    """A network's latency or memory, composed of its blocks and measured whole."""
    composed = {"latency": measured.latency, "memory": measured.memory}[quantity](np.array([arch.row]))
    return float(composed[0]), measured.whole(quantity, arch)


def _write_configs(prepared: PreparedSearch, winner: Winner, folder: Path) -> None:
    weights = (prepared.out / winner.folder / PTH_FILE).resolve()
    for name, write in prepared.downstream.configs.items():
        write(winner.arch, weights, folder / name)
