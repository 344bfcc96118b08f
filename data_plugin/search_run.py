"""One search from a framework's config to an output folder: what the search tools run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_plugin import __version__, cost
from data_plugin.artefact import PTH_FILE
from data_plugin.backbones.extract import extract
from data_plugin.budget import Budget, Costs, all_groups
from data_plugin.calibration import calibrate
from data_plugin.checkpoint import SupernetInfo, load_supernet
from data_plugin.errors import UserError
from data_plugin.framework import (
    CONFIG_ENDING,
    DISTRIBUTIONS,
    Adapter,
    is_installed,
    load_adapter,
    named_config,
)
from data_plugin.partial_search import PartialSearch
from data_plugin.ranks import joined_ranks, local_device, rank, rank_count
from data_plugin.search import search
from data_plugin.search_output import (
    PARTIAL,
    Winner,
    file_hash,
    installed_versions,
    pick_winner,
    require_free,
    write_search,
)
from data_plugin.space import SearchSpace
from data_plugin.taps import parse_taps


@dataclass(frozen=True)
class SearchOptions:
    """What a search is run with.

    Args:
        config: name or path of the framework's config.
        framework: the framework; None picks one, see :func:`data_plugin.framework.load_adapter`.
        supernet: the supernet's ``.safetensors`` file.
        data_root: folder of the data sets; None leaves the config's.
        groups: groups in GFLOPs such as ``3-4``.
        budgets: budgets such as ``flops<=4.0G and params<=30M``.
        all_groups: search all of the paper's groups that hold a network.
        input_size: height and width in pixels at which FLOPs are counted.
        out: the output folder.
        samples: networks drawn per group (100 in DATA, section 4.1).
        images: images drawn from the config's training set; None takes all.
        batch_size: images per batch.
        taps: comma-separated taps; None reads them from the config's model.
        norm: what batch norms normalise with, see :func:`data_plugin.search.search`.
        seed: seed of both draws.
        device: a torch device, or ``auto``.
        overwrite: replace an output folder that holds something.
        resume: go on with the unfinished search in the output folder.
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
    input_size: tuple[int, int] = (224, 224)
    samples: int = 100
    images: int | None = 256
    batch_size: int = 4
    taps: str | None = None
    norm: str = "batch"
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    options: Sequence[str] = ()


def run_search(options: SearchOptions, frameworks: Sequence[str]) -> list[Winner]:
    """Search a supernet on the images of a framework's config and write the output folder.

    Args:
        options: what to run.
        frameworks: frameworks of the task, in order of preference.

    Returns:
        The winner of every budget; nothing in processes other than the first of several.

    Raises:
        UserError: if anything that the user gave does not fit; nothing is written then.
    """
    with joined_ranks():
        return _search(options, frameworks)


def _search(options: SearchOptions, frameworks: Sequence[str]) -> list[Winner]:
    unfinished = options.out / PARTIAL
    require_free(options.out, options.overwrite, options.resume)
    chosen_taps = None if options.taps is None else parse_taps(options.taps)
    supernet = load_supernet(options.supernet)
    costs = {"flops": lambda table: cost.flops(table, options.input_size), "params": cost.params}
    budgets = _budgets(options, supernet.info.space, costs)
    framework, adapter = load_adapter(options.framework, options.config, frameworks)
    config = adapter.load_config(options.config, options.options, options.data_root)
    supernet.info.input_format.require(adapter.input_format(config), f"the config {options.config}")
    candidates = {
        budget.name: supernet.info.space.sample(options.samples, options.seed, partial(budget.fits, costs=costs))
        for budget in budgets
    }
    archs = sorted({arch for found in candidates.values() for arch in found})
    packages = ["torch", *(package for name in frameworks for package in DISTRIBUTIONS[name])]
    run = {
        "format": 1,
        "framework": framework,
        "config": options.config,
        "options": list(options.options),
        "data_root": None if options.data_root is None else str(options.data_root),
        "supernet": _description(options.supernet, supernet.info),
        "taps": list(chosen_taps or adapter.taps(config)),
        "norm": options.norm,
        "budgets": list(candidates),
        "input_size": list(options.input_size),
        "samples": options.samples,
        "images_asked_for": options.images,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "versions": {"data_plugin": __version__, **installed_versions(packages)},
    }
    if options.overwrite and rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
    device = pick_device(options.device)
    query, key = supernet.query.to(device), supernet.key.to(device)
    batches = adapter.image_batches(config, options.images, options.batch_size, options.seed)
    with _progress(len(archs) * len(batches)) as advance:
        result = search(
            query,
            key,
            archs,
            batches,
            run["taps"],
            norm=options.norm,
            partial=PartialSearch(unfinished, run),
            progress=advance,
        )
    if rank() != 0:
        return []
    winners = [pick_winner(result, budget, candidates[budget.name]) for budget in budgets]
    networks = [extract(query, winner.arch).cpu() for winner in winners]
    calibrate(networks, (batch.images for batch in batches))

    configs = {framework: (adapter, config), **_same_config(options, framework, frameworks)}

    def write_configs(winner: Winner, folder: Path) -> None:
        weights = (options.out / winner.folder / PTH_FILE).resolve()
        for name, (other, other_config) in configs.items():
            path = folder / f"{Path(options.config).stem}{CONFIG_ENDING[name]}"
            other.write_config(other_config, winner.arch, weights, path)

    statistics = "recalibrated on the images of the search"
    write_search(
        options.out, result, candidates, winners, networks, {**run, "winner_norm_statistics": statistics}, write_configs
    )
    return winners


def _budgets(options: SearchOptions, space: SearchSpace, costs: Costs) -> list[Budget]:
    """The budgets that were asked for, each of which holds a network of the space."""
    budgets = [Budget.group(text) for text in dict.fromkeys(options.groups)]
    budgets += [Budget.parse(text) for text in dict.fromkeys(options.budgets)]
    for budget in budgets:
        budget.require_any(space, costs)
    if options.all_groups:
        budgets += [group for group in all_groups(space, costs) if group not in budgets]
    if not budgets:
        raise UserError("no budget was given; name one with --group, --budget or --all-groups")
    return budgets


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is this process's GPU where there is one, else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return local_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used here; expected auto, cpu or a GPU such as cuda:0"
        ) from error


def _same_config(options: SearchOptions, framework: str, frameworks: Sequence[str]) -> dict[str, tuple[Adapter, Any]]:
    """The config of the same name in the other installed frameworks, as they ship it."""
    found = {}
    for name in frameworks:
        if name != framework and is_installed(name) and named_config(options.config, name):
            _, adapter = load_adapter(name, options.config, frameworks)
            found[name] = (adapter, adapter.load_config(options.config, (), options.data_root))
    return found


def _description(path: Path, info: SupernetInfo) -> dict[str, Any]:
    return {"path": str(path), "sha256": file_hash(path), "method": info.method, "space": info.space.to_json()}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar over networks times batches; yields the function that moves it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=rank() != 0) as progress:
        task = progress.add_task("networks x batches", total=total)
        # Every process settles its share at about the same pace; the first one shows that of all.
        yield lambda networks: progress.advance(task, networks * rank_count())
