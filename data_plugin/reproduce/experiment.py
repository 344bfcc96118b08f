"""One row of a table: a search on the task's images, its networks fine-tuned alike, and how well they were ranked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_plugin.frameworks.finetuned import Finetuned
from data_plugin.ranking.classified import LabelledImages
from data_plugin.ranking.rank_check import FOLDER, check_ranking, plan_rank_check
from data_plugin.ranking.rivals import finetune_rivals
from data_plugin.reproduce.recipe import Experiment, Row
from data_plugin.search.finished import finished_search
from data_plugin.search.found import Search
from data_plugin.search.options import SearchOptions
from data_plugin.search.report.search_report import SEARCH_FILE, SearchReport
from data_plugin.search.run import run_search
from data_plugin.search.strategies.sample import Sample
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

THE_PAPERS = "the paper's"
"""What the network is called that the paper has found."""

SECONDS = "seconds.json"
"""The file in a row's folder that holds how long its trainings took, interruptions left out."""


def run_row(
    kind: str,
    row: Row,
    experiment: Experiment,
    supernet: str,
    data: Path,
    out: Path,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
) -> Search:
    """Run a row, going on where an earlier call of the same settings stopped.

    Args:
        kind: the table's.
        row: the row.
        experiment: its scale.
        supernet: the supernet's file, or "shipped".
        data: the folder of all data sets.
        out: the row's output folder, that of its search.
        done: called with every fine-tuning that is done, an earlier call's too.

    Returns:
        The search, its report with rivals or rank checks.

    Raises:
        UserError: if anything does not fit; what is finished stays.
    """
    search = _searched(row, experiment, supernet, data, out)
    clock = _Clock(out / SECONDS)

    def tell(finetuned: Finetuned) -> None:
        clock.keep()
        done(finetuned)

    labelled = None
    if experiment.task == "classification":
        folder = data / experiment.data
        labelled = LabelledImages(folder / "train", folder / "val", experiment.labels, experiment.protocol)
    return KINDS[kind](search, row, experiment, labelled, tell)


def _ranked(
    search: Search, row: Row, experiment: Experiment, labelled: LabelledImages | None, tell: Callable[[Finetuned], None]
) -> Search:
    """Networks of all the range, fine-tuned alike."""
    if labelled is None:
        # Beside the pick what one would take without a search, and ResNet-50's shape from random weights.
        search = finetune_rivals(search, experiment.length, tell)
    networks = dict(zip(search.report.budgets, experiment.networks_of, strict=True))
    plan = plan_rank_check(search.report, None, networks, experiment.seeds, experiment.repeated)
    resume = (search.out / FOLDER).is_dir()
    return check_ranking(search, plan, experiment.length, labelled=labelled, resume=resume, done=tell)


def _picked(
    search: Search, row: Row, experiment: Experiment, labelled: LabelledImages | None, tell: Callable[[Finetuned], None]
) -> Search:
    """The pick and its rivals, and the paper's network where the supernet has it."""
    own = Arch.parse(row.arch) if row.arch else None
    largest = load_supernet(search.report.run["supernet"]["path"]).info.space.largest
    also = {THE_PAPERS: own} if own is not None and own.fits_inside(largest) else {}
    return finetune_rivals(search, experiment.length, tell, seeds=experiment.seeds, also=also, labelled=labelled)


KINDS = {"ranking": _ranked, "picks": _picked}
"""What is made of a row's search, by the kind of its table."""


def finished_row(kind: str, out: Path) -> SearchReport | None:
    """The report of a row in its output folder; None while it is not finished.

    Args:
        kind: the table's.
        out: the folder.
    """
    if not (out / SEARCH_FILE).is_file():
        return None
    report = SearchReport.read(out)
    return report if (report.rank_checks if kind == "ranking" else report.finetuning) else None


def budgets_of(space: SearchSpace, experiment: Experiment) -> list[Budget]:
    """The ranges of an experiment as budgets, percentiles rounded outwards to thousandths of GFLOPs."""
    if experiment.group:
        return [Budget.group(experiment.group)]
    gflops = cost.flops(space.table) / 1e9
    found = []
    for low, high in experiment.ranges:
        bounds = np.quantile(gflops, low / 100), np.quantile(gflops, high / 100)
        found.append(Budget.group(f"{math.floor(bounds[0] * 1e3) / 1e3:g}-{(math.floor(bounds[1] * 1e3) + 1) / 1e3:g}"))
    return found


def search_options(row: Row, experiment: Experiment, supernet: str, data: Path, out: Path) -> SearchOptions:
    """What a row's search is asked for; see :func:`run_row`."""
    classifies = experiment.task == "classification"
    folder = data / experiment.data
    return SearchOptions(
        config=str(folder / "train") if classifies else experiment.config,
        supernet=supernet,
        out=out,
        task=experiment.task,
        framework=experiment.framework,
        data_root=None if classifies else folder,
        images=data / experiment.source if experiment.source else None,
        budgets=budgets_of(load_supernet(supernet).info.space, experiment),
        strategy=Sample(max(experiment.networks_of)),
        image_size=experiment.image_size,
        image_count=experiment.image_count,
        taps=tuple(row.taps),
        resume=True,
        options=tuple(experiment.options),
    )


def _searched(row: Row, experiment: Experiment, supernet: str, data: Path, out: Path) -> Search:
    """The row's search, finished."""
    options = search_options(row, experiment, supernet, data, out)
    search = finished_search(options) or run_search(options)
    if search is None:
        raise UserError("a table is reproduced by one process; give rows of it to several jobs with --rows instead")
    return search


class _Clock:
    """Adds up how long a job has worked, over all of its calls.

    Args:
        path: the file that holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = json.loads(path.read_text()) if path.is_file() else 0.0
        self._began = time.monotonic()

    def keep(self) -> None:
        """Write it down."""
        seconds = self._before + time.monotonic() - self._began
        write_whole(self._path, lambda path: path.write_text(json.dumps(seconds)))
