"""One search from a framework's config to an output folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin import __version__
from data_plugin.frameworks.framework import Task
from data_plugin.images.batch import ImageBatches, draw_batches
from data_plugin.search.comparison import Reduction
from data_plugin.search.downstream import Downstream, classification_task, config_task
from data_plugin.search.external_teacher import open_external_teacher
from data_plugin.search.found import Search
from data_plugin.search.knowledge import Knowledge, knowledge_of, passes
from data_plugin.search.plan import SearchPlan, foresee
from data_plugin.search.report.folder import PARTIAL, numbered_folder, require_free, write_search
from data_plugin.search.report.search_report import Images, SearchReport, Winner, pick_front, pick_winner, tabulate
from data_plugin.search.report.words import knowledge_text, supernet_text
from data_plugin.search.resume import RUN_FILE, PartialSearch, open_partial
from data_plugin.search.rivals import Beside, Rival, rivals_of
from data_plugin.search.searcher import Searcher
from data_plugin.search.strategies.halving import Halving
from data_plugin.search.strategies.sample import Sample
from data_plugin.search.strategies.strategy import Candidates, Outcome, Strategy, Within, distinct
from data_plugin.search.taps import check_taps
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget, Costs, all_groups
from data_plugin.space.latency_table import LatencyTable
from data_plugin.space.measured_cost import MeasuredCosts
from data_plugin.space.resolution import Resolution
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.backbone_files import PTH_FILE
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, load_supernet
from data_plugin.supernet.named_supernet import SHIPPED, named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.provenance import device_name, file_hash, installed_versions
from data_plugin.utils.ranks import from_first, joined_ranks, pick_device, rank, rank_count

DRAWN = Sample()
"""How candidates are found if nobody says."""


@dataclass(frozen=True)
class SearchOptions:
    """What a search is run with.

    Args:
        config: name or path of the framework's config; for classification the images themselves, a folder at any depth
            or what else ``images`` takes.
        supernet: the supernet's ``.safetensors`` file, or "shipped" for the one that comes with the package.
        out: the output folder; None takes the next ``runs/CONFIG-NUMBER``.
        task: what the backbone is for; None leaves it to the config's name.
        framework: the framework; None picks one, see :func:`data_plugin.frameworks.registry.find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects that the winners' configs are for; None leaves them to the config and the
            annotations. No search depends on them.
        budgets: which networks may be chosen; one answer each. None are all groups of the space, see
            :func:`~data_plugin.space.budget.all_groups`.
        every_group: add all groups of the space to the budgets.
        input_size: height and width in pixels at which FLOPs are counted, and latency and memory measured; None
            counts at 224 x 224 and measures at the size of the config's first batch. FLOPs are the papers': of the
            backbone at output stride 32, whatever the config's strides; latency and memory are at the config's.
        latency_table: a file of latencies that were measured on another device, see
            :class:`~data_plugin.space.latency_table.LatencyTable`; None measures them on this one.
        strategy: how candidates are found.
        images: a folder of images, or of tar shards, or a text file that names images, to search on; None takes the
            config's training images.
        image_size: height and width in pixels at which images are classified; None takes the pre-training's. What a
            config's model sees the config says.
        image_count: how many of these are drawn; None takes all.
        batch_size: most images of a batch.
        taps: the feature maps to compare; None takes those that the config's model reads, and for classification
            ``z``.
        reduction: what becomes of the positions of a map, see :class:`~data_plugin.search.searcher.Searcher`.
        norm: what batch norms normalise with, see there.
        precision: what features are computed in, see there.
        relation_rows: rows of the relation that are drawn per image and tap; None takes all.
        search_teacher: a frozen network of any kind instead of the supernet's largest, in the words of
            :func:`~data_plugin.search.external_teacher.open_external_teacher`; none takes the largest.
        max_memory: bytes of tensors that may be held at once on the device; None takes a part of what is free.
        seed: seed of all draws.
        device: a torch device, or ``auto``.
        overwrite: replace an output folder that holds something.
        resume: go on with the unfinished search in the output folder.
        pareto: answer every budget with all networks that none is closer than at no more cost, instead of one.
        options: ``KEY=VALUE`` changes of the config.
    """

    config: str
    supernet: str | os.PathLike[str] = SHIPPED
    out: Path | None = None
    task: Task | None = None
    framework: str | None = None
    data_root: Path | None = None
    classes: Sequence[str] | None = None
    budgets: Sequence[Budget] = ()
    every_group: bool = False
    input_size: tuple[int, int] | None = None
    latency_table: str | os.PathLike[str] | None = None
    strategy: Strategy = DRAWN
    images: str | os.PathLike[str] | None = None
    image_size: int | None = None
    image_count: int | None = 256
    batch_size: int = 4
    taps: Sequence[str] | None = None
    reduction: Reduction = "mean"
    norm: str = "batch"
    precision: str = "float32"
    relation_rows: int | None = None
    search_teacher: Sequence[str] = ()
    max_memory: int | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    pareto: bool = False
    options: Sequence[str] = ()

    def decisive(self) -> dict[str, Any]:
        """Everything that decides what a search comes to, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_DECISIVE}
        values["budgets"] = [budget.name for budget in self.budgets]
        values["strategy"] = self.strategy.to_json()
        return json.loads(json.dumps(values, default=os.fspath))


_NOT_DECISIVE = ("out", "task", "device", "overwrite", "resume")
"""Options that say where a search is, how it is begun or what computes it."""

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

    What is not explained here is as in :class:`SearchOptions`.

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
        prepared = _prepare(options)
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
        prepared = _prepare(options)
        plan = _plan(prepared, prepared.draw(), _knowledge(prepared))
        return plan if rank() == 0 else None


@dataclass(frozen=True)
class _Prepared:
    """A search with everything that was asked for found and checked."""

    options: SearchOptions
    out: Path
    supernet: Supernet
    downstream: Downstream
    budgets: Sequence[Budget]
    measured: MeasuredCosts
    latency_table: LatencyTable | None
    costs: Costs
    batches: ImageBatches
    searcher: Searcher

    @property
    def space(self) -> SearchSpace:
        return self.supernet.info.space

    @property
    def within(self) -> Mapping[str, Within]:
        return {budget.name: partial(budget.fits, costs=self.costs) for budget in self.budgets}

    @property
    def rivals(self) -> list[tuple[str, str, Arch]]:
        """The rivals of every budget: its name, what the rival is called, and the network."""
        return [
            (budget, name, arch)
            for budget, within in self.within.items()
            for name, arch in rivals_of(self.space, within).items()
        ]

    def draw(self) -> Candidates:
        """Candidates for every budget; none where the strategy finds its networks on the way."""
        candidates = self.options.strategy.candidates(self.space, self.within, self.options.seed)
        if candidates:  # else nobody enumerates the space
            for budget in self.budgets:
                budget.require_any(self.space, self.costs)
        return candidates


def _prepare(options: SearchOptions) -> _Prepared:
    out = options.out or from_first(numbered_folder(options.config, options.resume) if rank() == 0 else Path())
    require_free(out, options.overwrite, options.resume)
    if options.pareto and isinstance(options.strategy, Halving):
        raise UserError("halving drops networks that the front needs; search with --pareto or with --halve")
    chosen_taps = None if options.taps is None else check_taps(options.taps)
    supernet = load_supernet(options.supernet)
    budgets = _budgets(options, supernet.info.space)
    downstream = _downstream(options, supernet.info)
    batches = draw_batches(downstream.images, options.image_count, options.batch_size, options.seed)
    device = pick_device(options.device)
    resolution = downstream.resolution
    size = partial(_measured_size, options, batches)
    measured = MeasuredCosts(supernet.info.space, size, device, resolution)
    latency_table = _latency_table(options, budgets, supernet.info.space, resolution)
    bounded = {quantity for budget in budgets for quantity in budget.quantities}
    measured.prepare(bounded if latency_table is None else bounded - {"latency"})
    latency = measured.latency if latency_table is None else latency_table.model.latency
    costs = {**_closed_costs(options), "latency": latency, "memory": measured.memory}
    searcher = Searcher(
        supernet.at(device, **resolution.options()),
        chosen_taps or downstream.taps,
        reduction=options.reduction,
        norm=options.norm,
        precision=options.precision,
        rows=options.relation_rows,
        seed=options.seed,
        max_memory=options.max_memory,
        teacher=open_external_teacher(options.search_teacher, supernet.info) if options.search_teacher else None,
    )
    return _Prepared(
        options=options,
        out=out,
        supernet=supernet,
        downstream=downstream,
        budgets=budgets,
        measured=measured,
        latency_table=latency_table,
        costs=costs,
        batches=batches,
        searcher=searcher,
    )


def _downstream(options: SearchOptions, info: SupernetInfo) -> Downstream:
    """The task that was asked for."""
    of_config = ("framework", "data_root", "classes", "images", "options")
    classifies = options.task == "classification"
    foreign = [name for name in (of_config if classifies else ("image_size",)) if getattr(options, name)]
    if foreign:
        other = "a framework's config, and a search for classification has none" if classifies else "classification"
        raise UserError(f"{foreign[0]} was given, which is for {other}; leave it out")
    if classifies:
        return classification_task(Path(options.config), options.image_size, options.supernet, info)
    return config_task(
        options.config,
        info.input_format,
        task=options.task,
        framework=options.framework,
        data_root=options.data_root,
        classes=options.classes,
        options=options.options,
        images=None if options.images is None else Path(options.images),
    )


def _knowledge(prepared: _Prepared) -> Knowledge | None:
    """What the teacher knows of the images, found out by the first process for all."""
    known = None
    if rank() == 0 and passes(prepared.batches) and not prepared.options.search_teacher:
        with progress_over(passes(prepared.batches), "images x networks to see what the teacher knows") as advance:
            known = knowledge_of(prepared.searcher.supernet.key, prepared.batches, prepared.options.seed, advance)
    return from_first(known)


def _plan(prepared: _Prepared, candidates: Candidates, known: Knowledge | None) -> SearchPlan:
    """What the search is about to do; every process has to call it."""
    options, searcher, batches, downstream = prepared.options, prepared.searcher, prepared.batches, prepared.downstream
    networks = options.strategy.most(candidates, len(prepared.budgets))
    like = candidates or Sample(PLANNED).candidates(prepared.space, prepared.within, options.seed)
    beside = {arch for _, _, arch in prepared.rivals}.difference(distinct(candidates))
    flops, seconds = foresee(searcher, batches, distinct(like), networks + len(beside), downstream.resolution.strides)
    return SearchPlan(
        model=downstream.model,
        config=options.config,
        supernet=supernet_text(_supernet(prepared), prepared.supernet.info.training),
        teacher=knowledge_text(known, _search_teacher(prepared)),
        data=downstream.place,
        lacking=downstream.lacking,
        images=sum(map(len, batches.parts)),
        of=len(batches.source),
        taps=searcher.taps,
        budgets={budget.name: len(candidates[budget.name]) if candidates else None for budget in prepared.budgets},
        latency=_latency_source(prepared),
        networks=networks,
        rivals=len(beside),
        flops=flops,
        seconds=seconds,
        device=str(searcher.device),
        out=prepared.out,
    )


def _run(prepared: _Prepared, unfinished: PartialSearch, known: Knowledge | None) -> Search | None:
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


def _searched(prepared: _Prepared, unfinished: PartialSearch) -> tuple[Outcome, list[Rival]]:
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


def _report(prepared: _Prepared, outcome: Outcome, rivals: Sequence[Rival], known: Knowledge | None) -> SearchReport:
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
            **_description(prepared),
            "asked_for": options.decisive(),
            "winner_norm_statistics": "recalibrated on the images of the search",
        },
    )


def _budgets(options: SearchOptions, space: SearchSpace) -> list[Budget]:
    """The budgets that were asked for; those of costs that need no measurement hold a network of the space."""
    costs = _closed_costs(options)
    budgets = list({budget.folder: budget for budget in options.budgets}.values())
    for budget in budgets:
        if all(quantity in costs for quantity in budget.quantities):
            budget.require_any(space, costs)
    if options.every_group or not budgets:
        budgets += [group for group in all_groups(space, costs) if group not in budgets]
    return budgets


def _closed_costs(options: SearchOptions) -> Costs:
    return {"flops": lambda table: cost.flops(table, options.input_size or (224, 224)), "params": cost.params}


def _open(prepared: _Prepared) -> PartialSearch:
    """The unfinished search of the output folder, or a new one with candidates for every budget."""
    options = prepared.options
    if options.overwrite:
        # First what makes the batches a search's, so that a kill in between leaves none that could be gone on with.
        (prepared.out / PARTIAL / RUN_FILE).unlink(missing_ok=True)
    decides = {
        **_description(prepared),
        **{name: getattr(options, name) for name in _DECIDES},
        "data_root": None if options.data_root is None else str(options.data_root),
        "framework": prepared.downstream.framework,
        "taps": list(prepared.searcher.taps),
        "budgets": [budget.name for budget in prepared.budgets],
    }
    return open_partial(prepared.out / PARTIAL, decides, prepared.draw)


def _measured_size(options: SearchOptions, batches: ImageBatches) -> tuple[int, int]:
    """Height and width at which latency and memory are measured."""
    if options.input_size is not None:
        return options.input_size
    height, width = next(iter(batches.only([0]))).images.shape[-2:]
    return height, width


def _latency_table(
    options: SearchOptions, budgets: Sequence[Budget], space: SearchSpace, resolution: Resolution
) -> LatencyTable | None:
    """The table that was asked for, of these networks."""
    if options.latency_table is None:
        return None
    if not any("latency" in budget.quantities for budget in budgets):
        raise UserError(
            f"{os.fspath(options.latency_table)} gives latencies, and no budget bounds latency; add one, such as "
            "--budget 'latency<=12ms', or leave out the table"
        )
    table = LatencyTable.read(Path(options.latency_table))
    table.require(space, resolution, options.input_size)
    return table


def _latency_source(prepared: _Prepared) -> str | None:
    """Where latencies are from, in words; None where no budget bounds them."""
    if prepared.latency_table is not None:
        return f"of {prepared.latency_table.place}, by {os.fspath(prepared.options.latency_table or '')}"
    if not any("latency" in budget.quantities for budget in prepared.budgets):
        return None
    height, width = prepared.measured.input_size
    return f"of this device, {device_name(prepared.measured.device)} with torch, at {height}x{width}"


def _check(measured: MeasuredCosts, quantity: str, arch: Arch) -> tuple[float, float]:
    """A network's latency or memory, composed of its blocks and measured whole."""
    composed = {"latency": measured.latency, "memory": measured.memory}[quantity](np.array([arch.row]))
    return float(composed[0]), measured.whole(quantity, arch)


def _write_configs(prepared: _Prepared, winner: Winner, folder: Path) -> None:
    weights = (prepared.out / winner.folder / PTH_FILE).resolve()
    for name, write in prepared.downstream.configs.items():
        write(winner.arch, weights, folder / name)


def _description(prepared: _Prepared) -> dict[str, Any]:
    """What was run beside what the report says in fields of its own, as JSON values."""
    options = prepared.options
    packages = [*prepared.downstream.distributions, "torch"]
    return {
        "options": list(options.options),
        "classes": None if options.classes is None else list(options.classes),
        "supernet": _supernet(prepared),
        "strategy": options.strategy.to_json(),
        "resolution": prepared.downstream.resolution.options(),
        "max_memory": options.max_memory,
        "search_teacher": _search_teacher(prepared),
        "latency_table": _latency_description(prepared),
        "image_source": None if options.images is None else os.fspath(options.images),
        "image_source_sha256": prepared.downstream.fingerprint,
        "images_asked_for": options.image_count,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "versions": {"data_plugin": __version__, **installed_versions(packages)},
    }


def _search_teacher(prepared: _Prepared) -> list[str]:
    """The network in the teacher's place, and what was told of it; empty where it is the supernet's largest."""
    external = prepared.searcher.teacher
    return [] if external is None else [external.name, *prepared.options.search_teacher[1:]]


def _latency_description(prepared: _Prepared) -> dict[str, Any] | None:
    """What a report says of the table of latencies."""
    path, table = prepared.options.latency_table, prepared.latency_table
    if path is None or table is None:
        return None
    return {
        "path": os.fspath(path),
        "sha256": file_hash(Path(path)),
        "place": table.place,
        "device": table.device,
        "runtime": table.runtime,
        "threads": table.threads,
        "input_size": list(table.input_size),
        "accuracy": table.accuracy,
    }


def _supernet(prepared: _Prepared) -> dict[str, Any]:
    """What a report says of the supernet."""
    path, info = prepared.options.supernet, prepared.supernet.info
    return {
        "path": os.fspath(path),
        "sha256": file_hash(named_supernet(path)),
        "method": info.method,
        "saw_labels": info.saw_labels,
        "space": info.space.to_json(),
    }
