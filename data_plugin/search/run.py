"""One search from a framework's config to an output folder: what the search tools run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_plugin import __version__
from data_plugin.backbones.extract import extract
from data_plugin.frameworks.framework import Framework, Task
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import find_framework, frameworks_of
from data_plugin.images.batch import ImageBatches, draw_batches
from data_plugin.search.distances.embedding import trained_heads
from data_plugin.search.memory import FREE_PART, free_memory
from data_plugin.search.output import PARTIAL, Winner, pick_front, pick_winner, require_free, write_search
from data_plugin.search.resume import RUN_FILE, PartialSearch, open_partial
from data_plugin.search.searcher import SearchResult, merged, search
from data_plugin.search.strategies.evolution import Evolution, evolve
from data_plugin.search.strategies.halving import halve
from data_plugin.search.taps import EMBEDDING, parse_taps
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget, Costs, all_groups
from data_plugin.space.measured_cost import MeasuredCosts
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.backbone_files import PTH_FILE
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import SupernetInfo, load_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.provenance import file_hash, installed_versions
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, pick_device, rank, rank_count


@dataclass(frozen=True)
class SearchOptions:
    """What a search is run with.

    Args:
        config: name or path of the framework's config.
        framework: the framework; None picks one, see :func:`find_framework`.
        supernet: the supernet's ``.safetensors`` file.
        data_root: folder of the data sets; None leaves the config's.
        groups: groups in GFLOPs such as ``3-4``.
        budgets: budgets such as ``flops<=4.0G and params<=30M``.
        all_groups: search all of the paper's groups that hold a network.
        input_size: height and width in pixels at which FLOPs are counted, and latency and memory measured; None
            counts at 224 x 224 and measures at the size of the config's first batch. FLOPs are the papers': of the
            backbone at output stride 32, whatever the config's strides; latency and memory are at the config's.
        out: the output folder.
        samples: networks drawn per budget (100 in DATA, section 4.1); None compares all that fit.
        images: images drawn from the config's training set; None takes all.
        batch_size: images per batch.
        taps: comma-separated taps; None reads them from the config's model.
        norm: what batch norms normalise with, see :func:`data_plugin.search.searcher.search`.
        precision: what features are computed in, see :func:`data_plugin.search.searcher.search`.
        relation_rows: rows of the relation that are drawn per image and tap; None takes all.
        max_memory: bytes of tensors that may be held at once on the device; None takes a part of what is free.
        seed: seed of all draws.
        device: a torch device, or ``auto``.
        overwrite: replace an output folder that holds something.
        resume: go on with the unfinished search in the output folder.
        evolve: find networks by evolution instead of drawing ``samples``.
        halve: drop networks that are surely behind, at this confidence, before they see all images.
        pareto: answer every budget with all networks that none is closer than at no more cost, instead of one.
        options: ``KEY=VALUE`` changes of the config.
    """

    config: str
    framework: str | None
    supernet: Path
    data_root: Path | None
    out: Path
    groups: Sequence[str] = ()
    budgets: Sequence[str] = ()
    all_groups: bool = False
    input_size: tuple[int, int] | None = None
    samples: int | None = 100
    images: int | None = 256
    batch_size: int = 4
    taps: str | None = None
    norm: str = "batch"
    precision: str = "float32"
    relation_rows: int | None = None
    max_memory: int | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    evolve: Evolution | None = None
    halve: float | None = None
    pareto: bool = False
    options: Sequence[str] = ()


def run_search(options: SearchOptions, task: Task) -> list[Winner]:
    """Search a supernet on the images of a framework's config and write the output folder.

    Args:
        options: what to run.
        task: what the config's model is for.

    Returns:
        The winners, one of every budget or its whole front; nothing in processes other than the first of several.

    Raises:
        UserError: if anything that the user gave does not fit; nothing is written then.
    """
    with joined_ranks():
        require_free(options.out, options.overwrite, options.resume)
        if options.evolve and options.halve:
            raise UserError("evolution and halving were both asked for; expected one of them")
        if options.pareto and options.halve:
            raise UserError("halving drops networks that the front needs; search with --pareto or with --halve")
        chosen_taps = None if options.taps is None else parse_taps(options.taps)
        supernet = load_supernet(options.supernet)
        space = supernet.info.space
        budgets = _budgets(options, space)
        framework = find_framework(options.framework, options.config, task)
        config = framework.open(options.config, options.options, options.data_root)
        what = f"the config {options.config}, by its {framework.input_keys},"
        supernet.info.input_format.require(config.input_format, what)
        taps = chosen_taps or config.taps
        heads = trained_heads(supernet, str(options.supernet)) if EMBEDDING in taps else None
        resolution = config.resolution.options()
        batches = draw_batches(config.images(), options.images, options.batch_size, options.seed)

        device = pick_device(options.device)
        measured = MeasuredCosts(space, lambda: options.input_size or _image_size(batches), device, **resolution)
        run = {
            **_description(options, supernet.info, task),
            "framework": framework.name,
            "budgets": [budget.name for budget in budgets],
            "taps": list(taps),
            "strides_and_dilations": dict(resolution),
        }
        measured.prepare({quantity for budget in budgets for quantity in budget.quantities})
        max_memory = _max_memory(options, device)
        unfinished = from_first(_open(options, run, space, budgets, measured, max_memory) if rank() == 0 else None)
        assert unfinished is not None
        query, key = (branch.with_options(**resolution).to(device) for branch in (supernet.query, supernet.key))
        with _progress(_network_count(options, unfinished, budgets) * len(batches)) as advance:
            measure = partial(
                search,
                query,
                key,
                taps=taps,
                norm=options.norm,
                precision=options.precision,
                rows=options.relation_rows,
                seed=options.seed,
                max_memory=unfinished.max_memory,
                heads=None if heads is None else heads.to(device),
                progress=advance,
            )
            compared = _compare(options, measure, advance, unfinished, batches, space, budgets, measured)
        result, candidates = compared.result, compared.candidates
        if rank() != 0:
            return []
        costs = _costs(options, measured)
        winners: list[Winner] = []
        for budget in budgets:
            among = (result, budget, candidates[budget.name], costs, partial(_check, measured))
            winners += pick_front(*among) if options.pareto else [pick_winner(*among)]
        networks = [extract(query, winner.arch, **resolution).cpu() for winner in winners]
        calibrate(networks, (batch.images for batch in batches))
        configs = {framework: config, **_same_config(options, framework, task)}
        run["dropped"] = compared.dropped
        run["split"] = _split(options.norm, result.parts)
        run["winner_norm_statistics"] = "recalibrated on the images of the search"
        write_search(
            options.out,
            result,
            candidates,
            winners,
            networks,
            {quantity: costs[quantity] for budget in budgets for quantity in budget.quantities},
            run,
            partial(_write_configs, options, configs),
        )
        return winners


@dataclass(frozen=True)
class _Compared:
    """Distances, the networks of every budget that have them, and those that halving dropped."""

    result: SearchResult
    candidates: Mapping[str, Sequence[Arch]]
    dropped: Mapping[str, Any] | None = None


def _compare(
    options: SearchOptions,
    measure: Callable[..., SearchResult],
    advance: Callable[[float], None],
    unfinished: PartialSearch,
    batches: ImageBatches,
    space: SearchSpace,
    budgets: Sequence[Budget],
    measured: MeasuredCosts,
) -> _Compared:
    if options.evolve:
        return _evolve(options, measure, unfinished, batches, space, budgets, _costs(options, measured))
    if options.halve is None:
        archs = sorted({arch for found in unfinished.candidates.values() for arch in found})
        return _Compared(measure(archs=archs, batches=batches, unfinished=unfinished), unfinished.candidates)

    every = _network_count(options, unfinished, budgets)

    def of_round(number: int, archs: Sequence[Arch], indices: Sequence[int]) -> SearchResult:
        advance((every - len(archs)) * len(indices) / rank_count())  # the dropped ones need not see these
        return measure(archs=archs, batches=batches.only(indices), unfinished=unfinished.part(f"round-{number}"))

    halving = halve(of_round, unfinished.candidates, len(batches), options.halve)
    left = set(halving.result.archs)
    candidates = {name: [arch for arch in archs if arch in left] for name, archs in unfinished.candidates.items()}
    networks = [
        {"arch": str(arch), "images": images, "score": score} for arch, (images, score) in halving.dropped.items()
    ]
    dropped = {"count": len(networks), "confidence": halving.confidence, "networks": networks}
    return _Compared(halving.result, candidates, dropped)


def _evolve(
    options: SearchOptions,
    measure: Callable[..., SearchResult],
    unfinished: PartialSearch,
    batches: ImageBatches,
    space: SearchSpace,
    budgets: Sequence[Budget],
    costs: Costs,
) -> _Compared:
    results: list[SearchResult] = []
    candidates: dict[str, Sequence[Arch]] = {}
    assert options.evolve is not None
    for budget in budgets:

        def of_generation(number: int, archs: Sequence[Arch], budget: Budget = budget) -> list[float]:
            part = unfinished.part(f"{budget.folder}-{number:03d}")
            scored = merged(results) if results else None
            found = measure(archs=archs, batches=batches, scored=scored, unfinished=part)
            results.append(found)
            scores = dict(zip(found.archs, found.scores.tolist(), strict=True))
            return [scores[arch] for arch in archs]

        fits = partial(budget.fits, costs=costs)
        candidates[budget.name] = evolve(space, fits, of_generation, options.evolve, options.seed)
    return _Compared(merged(results), candidates)


def _network_count(options: SearchOptions, unfinished: PartialSearch, budgets: Sequence[Budget]) -> int:
    """Networks that are compared at the most."""
    if options.evolve:
        return len(budgets) * options.evolve.population * (options.evolve.generations + 1)
    return len({arch for found in unfinished.candidates.values() for arch in found})


def _costs(options: SearchOptions, measured: MeasuredCosts) -> Costs:
    return {**_closed_costs(options), "latency": measured.latency, "memory": measured.memory}


def _budgets(options: SearchOptions, space: SearchSpace) -> list[Budget]:
    """The budgets that were asked for; those of costs that need no measurement hold a network of the space."""
    costs = _closed_costs(options)
    named = [*map(Budget.group, options.groups), *map(Budget.parse, options.budgets)]
    budgets = list({budget.folder: budget for budget in named}.values())
    for budget in budgets:
        if all(quantity in costs for quantity in budget.quantities):
            budget.require_any(space, costs)
    if options.all_groups:
        budgets += [group for group in all_groups(space, costs) if group not in budgets]
    if not budgets:
        raise UserError("no budget was given; name one with --group, --budget or --all-groups")
    return budgets


def _closed_costs(options: SearchOptions) -> Costs:
    return {"flops": lambda table: cost.flops(table, options.input_size or (224, 224)), "params": cost.params}


def _open(
    options: SearchOptions,
    run: Mapping[str, Any],
    space: SearchSpace,
    budgets: Sequence[Budget],
    measured: MeasuredCosts,
    max_memory: int,
) -> PartialSearch:
    """The unfinished search of the output folder, or a new one with candidates for every budget."""
    costs = _costs(options, measured)

    def draw() -> dict[str, list[Arch]]:
        if options.evolve:
            return {}
        for budget in budgets:
            budget.require_any(space, costs)
        fits = {budget.name: partial(budget.fits, costs=costs) for budget in budgets}
        if options.samples is None:
            return {name: space.fitting(within) for name, within in fits.items()}
        return {name: space.sample(options.samples, options.seed, within) for name, within in fits.items()}

    if options.overwrite:
        # First what makes the batches a search's, so that a kill in between leaves none that could be gone on with.
        (options.out / PARTIAL / RUN_FILE).unlink(missing_ok=True)
    return open_partial(options.out / PARTIAL, run, draw, max_memory)


def _image_size(batches: ImageBatches) -> tuple[int, int]:
    height, width = next(iter(batches.only([0]))).images.shape[-2:]
    return height, width


def _check(measured: MeasuredCosts, quantity: str, arch: Arch) -> tuple[float, float]:
    """A network's latency or memory, composed of its blocks and measured whole."""
    composed = {"latency": measured.latency, "memory": measured.memory}[quantity](np.array([arch.row]))
    return float(composed[0]), measured.whole(quantity, arch)


def _max_memory(options: SearchOptions, device: torch.device) -> int:
    """The memory bound, the same for all processes, so that all split batches alike."""
    if options.max_memory is not None:
        return options.max_memory
    return int(FREE_PART * min(from_all(free_memory(device))))


def _split(norm: str, parts: Sequence[int]) -> dict[str, Any]:
    """What the memory bound made of the batches, as JSON values."""
    statistics = {
        "batch": "of the parts",
        "recalibrated": "of whole batches where these fit without relations, else of parts",
        "running": "the supernet's",
    }
    split = sum(count > 1 for count in parts)
    said = {"batch_norm_statistics": statistics[norm]} if split else {}
    return {"batches": len(parts), "split": split, "most_parts": max(parts), **said}


def _write_configs(
    options: SearchOptions, configs: Mapping[Framework, FrameworkConfig], winner: Winner, folder: Path
) -> None:
    weights = (options.out / winner.folder / PTH_FILE).resolve()
    for framework, config in configs.items():
        config.write(winner.arch, weights, folder / f"{Path(options.config).stem}{framework.configs.ending}")


def _same_config(options: SearchOptions, chosen: Framework, task: Task) -> dict[Framework, FrameworkConfig]:
    """The config of the same name in the other installed frameworks, as they ship it."""
    return {
        framework: framework.open(options.config, (), options.data_root)
        for framework in frameworks_of(task)
        if framework != chosen and framework.is_installed and framework.configs.ours(options.config)
    }


def _description(options: SearchOptions, info: SupernetInfo, task: Task) -> dict[str, Any]:
    """What was run, as JSON values."""
    packages = ["torch", *(package for framework in frameworks_of(task) for package in framework.distributions)]
    return {
        "format": 1,
        "config": options.config,
        "options": list(options.options),
        "data_root": None if options.data_root is None else str(options.data_root),
        "supernet": {
            "path": str(options.supernet),
            "sha256": file_hash(options.supernet),
            "method": info.method,
            "space": info.space.to_json(),
        },
        "norm": options.norm,
        "precision": options.precision,
        "relation_rows": options.relation_rows,
        "max_memory": options.max_memory or f"{FREE_PART:.0%} of what is free",
        "pareto": options.pareto,
        "input_size": options.input_size,
        "samples": options.samples,
        "evolve": None if options.evolve is None else asdict(options.evolve),
        "halve": options.halve,
        "images_asked_for": options.images,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "versions": {"data_plugin": __version__, **installed_versions(packages)},
    }


@contextmanager
def _progress(total: int) -> Iterator[Callable[[float], None]]:
    """Progress of all processes over networks times batches; yields the function that this one reports its own with."""
    if rank() != 0:
        yield lambda networks: None
        return
    with progress_over(total, "networks x batches") as advance:
        # Every process settles its share at about the same pace; the first one shows that of all.
        yield lambda networks: advance(networks * rank_count())
