"""A search with everything that was asked for found and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_plugin.images.batch import ImageBatches, draw_batches
from data_plugin.search.downstream import Downstream, classification_task, config_task
from data_plugin.search.external_teacher import open_external_teacher
from data_plugin.search.options import SearchOptions
from data_plugin.search.report.folder import numbered_folder, require_free
from data_plugin.search.rivals import rivals_of
from data_plugin.search.searcher import Searcher
from data_plugin.search.strategies.halving import Halving
from data_plugin.search.strategies.strategy import Candidates, Within
from data_plugin.search.taps import check_taps
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget, Costs, all_groups
from data_plugin.space.latency_table import LatencyTable
from data_plugin.space.measured_cost import MeasuredCosts
from data_plugin.space.resolution import Resolution
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, load_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import from_first, pick_device, rank


@dataclass(frozen=True)
class PreparedSearch:
    """A search with everything that was asked for found and checked.

    Args:
        options: what was asked for.
        out: the output folder.
        supernet: what is searched.
        downstream: what the backbone is for.
        budgets: which networks may be chosen.
        measured: latency and memory on this device.
        latency_table: latencies of another device, where one was given.
        costs: every quantity that a budget may bound.
        batches: the images.
        searcher: measures networks on them.
    """

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
        """The supernet's search space."""
        return self.supernet.info.space

    @property
    def within(self) -> Mapping[str, Within]:
        """Of every budget, by its name, whether networks are in it."""
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


def prepare(options: SearchOptions) -> PreparedSearch:
    """Find and check everything that a search needs; nothing is written.

    Args:
        options: what was asked for.

    Raises:
        UserError: if anything of it does not fit.
    """
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
    return PreparedSearch(
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
