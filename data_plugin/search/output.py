"""What a search leaves behind: ``search.json``, ``search.csv``, ``report.html`` and a folder per winner."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.search.report.html import render_report
from data_plugin.search.searcher import SearchResult
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget, Costs
from data_plugin.space.pareto import pareto_front
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.utils.errors import UserError

MEASURED = ("latency", "memory")
"""Quantities that are composed of measured blocks, and checked on whole networks."""

CONFIDENCE = 0.95
"""Of the paired, two-sided t test over the images by which a winner has to lead to be called distinguishable."""


PARTIAL = "partial"
"""Folder of an unfinished search in its output folder."""


@dataclass(frozen=True)
class Winner:
    """The closest network within a budget, or one of its Pareto front: the closest that costs no more than itself.

    Args:
        budget: what the user called the budget, such as ``3-4`` for a group.
        arch: the network.
        flops: its multiply-accumulates at 224 x 224.
        params: its parameters.
        costs: what it costs in the quantities that the budget bounds, in multiply-accumulates, numbers, s and bytes.
        score: its mean distance to the teacher.
        standard_error: of the score over the images; None for a single image.
        sampling_error: the part of the standard error that comes from drawing rows of the relation.
        candidates: networks that were compared, within the budget and, on a front, at no more cost than this one.
        runner_up: the second closest of these, None where there is one candidate.
        margin: how much further the runner-up is, paired over the images.
        margin_error: standard error of the margin; None for a single image.
        distinguishable: whether a t test tells the two apart at :data:`CONFIDENCE`.
        measured: per measured quantity of the budget, its cost composed of its blocks and measured whole, in s
            or bytes.
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
    candidates: int
    runner_up: Arch | None
    margin: float | None
    margin_error: float | None
    distinguishable: bool
    measured: Mapping[str, tuple[float, float]]
    folder: str

    def to_json(self) -> dict[str, Any]:
        """All fields, architectures as their canonical strings."""
        return {
            **asdict(self),
            "arch": str(self.arch),
            "runner_up": None if self.runner_up is None else str(self.runner_up),
        }


Check = Callable[[str, Arch], tuple[float, float]]
"""Gives a network's latency or memory, by its name, composed of its blocks and measured whole."""


def pick_winner(result: SearchResult, budget: Budget, candidates: Sequence[Arch], costs: Costs, check: Check) -> Winner:
    """The closest of the candidates within a budget, and how sure that is.

    Args:
        result: distances of at least these candidates.
        budget: the budget.
        candidates: networks within it, at least one.
        costs: what gives the costs that the budget bounds.
        check: compares a composed cost with that of the whole network.
    """
    first, *others = result.ranking(candidates)
    arch = result.archs[first]
    margin, margin_error = result.margin(first, others[0]) if others else (None, None)
    needed = student_t.ppf((1 + CONFIDENCE) / 2, len(result.images) - 1)  # NaN for a single image, which tells nothing
    sure = margin is not None and margin_error is not None and bool(margin > needed * margin_error)
    return Winner(
        budget=budget.name,
        arch=arch,
        flops=cost.flops(arch),
        params=cost.params(arch),
        costs={quantity: float(costs[quantity](np.array([arch.row]))[0]) for quantity in budget.quantities},
        score=float(result.scores[first]),
        standard_error=_finite(result.standard_errors[first]),
        sampling_error=float(result.sampling_errors[first]),
        candidates=len(candidates),
        runner_up=result.archs[others[0]] if others else None,
        margin=margin,
        margin_error=_finite(margin_error),
        distinguishable=sure,
        measured={quantity: check(quantity, arch) for quantity in budget.quantities if quantity in MEASURED},
        folder=f"winners/{budget.folder}",
    )


def pick_front(
    result: SearchResult, budget: Budget, candidates: Sequence[Arch], costs: Costs, check: Check
) -> list[Winner]:
    """The candidates that none is closer than at no more cost, in every quantity that a budget bounds, cheapest first.

    Args are those of :func:`pick_winner`. Each is the winner among the candidates that cost no more than itself.
    """
    table = np.array([arch.row for arch in candidates])
    paid = np.column_stack([costs[quantity](table) for quantity in budget.quantities])
    scores = dict(zip(result.archs, result.scores, strict=True))
    winners = []
    for member in pareto_front(np.column_stack([paid, [scores[arch] for arch in candidates]])):
        affordable = np.flatnonzero((paid <= paid[member]).all(axis=1))
        winner = pick_winner(result, budget, [candidates[i] for i in affordable], costs, check)
        winners.append(replace(winner, folder=f"{winner.folder}/{winner.arch}"))
    return winners


def require_free(out: Path, overwrite: bool, resume: bool) -> None:
    """Check that an output folder may be written.

    Args:
        out: the folder.
        overwrite: whether what it holds may be replaced.
        resume: whether the unfinished search that it holds goes on; where it holds nothing, one starts, so that a
            search that was killed before its first batch goes on too.

    Raises:
        UserError: if it is a file, or the folder that the process is in; cannot be written; holds anything and neither
            is set; or holds something that is no unfinished search where one is to go on.
    """
    if out.is_file():
        raise UserError(f"the output {out} is a file; expected a folder that may be made")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"the output folder {out.resolve()} would be replaced while you are in it; name one below it")
    nearest = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise UserError(f"the output folder {out} cannot be made in {nearest}; name one that you may write")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if resume and held and PARTIAL not in held:
        raise UserError(f"the output folder {out} holds no unfinished search; start one without --resume")
    if PARTIAL in held and not (resume or overwrite):
        raise UserError(f"the output folder {out} holds an unfinished search; add --resume or --overwrite")
    if held and not (resume or overwrite):
        raise UserError(f"the output folder {out} is not empty; name another or add --overwrite")


def write_search(
    out: Path,
    result: SearchResult,
    candidates: Mapping[str, Sequence[Arch]],
    winners: Sequence[Winner],
    networks: Sequence[DATAResNet],
    costs: Costs,
    run: Mapping[str, Any],
    write_configs: Callable[[Winner, Path], None],
) -> None:
    """Write the whole output folder, or nothing.

    Args:
        out: the folder to make or replace.
        result: the distances.
        candidates: by name, the networks within every budget.
        winners: the winner of every budget.
        networks: their networks with weights, in the same order.
        costs: what gives the costs that a budget bounds.
        run: what was run (supernet, data, options, versions), JSON values only.
        write_configs: called with every winner and its folder, to add training configs.
    """
    out = out.resolve()
    partial, replaced = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.replaced")
    for folder in (partial, replaced):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        for winner, network in zip(winners, networks, strict=True):
            folder = partial / winner.folder
            save_backbone(folder, network)
            write_configs(winner, folder)
        contents = {
            **run,
            "winners": [winner.to_json() for winner in winners],
            **_candidates(result, candidates, costs),
        }
        (partial / "search.json").write_text(json.dumps(contents, indent=1) + "\n")
        write_csv(partial / "search.csv", contents["candidates"])
        (partial / "report.html").write_text(render_report(contents))
        # A folder that is deleted file by file would, if killed, leave a part of a search that looks like one.
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_csv(path: Path, candidates: Sequence[Mapping[str, Any]]) -> None:
    """Write the candidates of a ``search.json`` as a table, a row each."""
    taps, budgeted = list(candidates[0]["taps"]), list(candidates[0]["costs"])
    plain = ["arch", "flops", "params", "score", "standard_error"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, "budgets", *(f"budgeted_{quantity}" for quantity in budgeted), *taps])
        for row in candidates:
            costs = (row["costs"][quantity] for quantity in budgeted)
            scores = (row["taps"][tap] for tap in taps)
            writer.writerow([*(row[key] for key in plain), ";".join(row["budgets"]), *costs, *scores])


def _candidates(result: SearchResult, candidates: Mapping[str, Sequence[Arch]], costs: Costs) -> dict[str, Any]:
    budgets: dict[Arch, list[str]] = {arch: [] for arch in result.archs}
    for budget, archs in candidates.items():
        for arch in archs:
            budgets[arch].append(budget)
    table = np.array([arch.row for arch in result.archs])
    paid = {quantity: cost_of(table) for quantity, cost_of in costs.items()}
    scores, errors, by_tap = result.scores, result.standard_errors, result.distances.mean(axis=2)
    sampling = result.sampling_errors
    rows = [
        {
            "arch": str(arch),
            "budgets": budgets[arch],
            "flops": cost.flops(arch),
            "params": cost.params(arch),
            "costs": {quantity: float(values[i]) for quantity, values in paid.items()},
            "score": float(scores[i]),
            "standard_error": _finite(errors[i]),
            "sampling_error": float(sampling[i]),
            "taps": {tap: float(by_tap[t, i]) for t, tap in enumerate(result.taps)},
        }
        for i, arch in enumerate(result.archs)
    ]
    images = {"count": len(result.images), "sha256": result.data_hash, "names": list(result.images)}
    return {"images": images, "candidates": sorted(rows, key=lambda row: row["score"])}


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
