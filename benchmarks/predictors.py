"""What ranks networks as fine-tuning does? Ways to measure the distance, and what costs nothing, beside one another.

For every finished row of a table of rankings (``data-reproduce table2``) the networks that it has fine-tuned are
compared with the teacher again, on the same images: at each tap and at each set of taps that the paper has (Tables 2
and 9), with every tap divided by its spread over the networks, at other temperatures and batch-norm policies, and mixed
with cost by the mean of the ranks. Nothing is trained. Of each way it prints Spearman's rank correlation with the
metric, its bootstrap interval, and the metric of the network that it puts first.

    data-reproduce table2 --scale here --data data --out runs/table2
    python benchmarks/predictors.py --table runs/table2

The last table is that of the paper's Table 9: for each task what the pick of each set of taps comes to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from data_plugin.ranking.rank_check import RIVALS
from data_plugin.ranking.statistics import bootstrap_interval, picked, spearman
from data_plugin.reproduce.experiment import finished_row, search_options
from data_plugin.reproduce.run import RUN, open_table
from data_plugin.search.prepared import PreparedSearch, prepare
from data_plugin.search.report.rank_check import RankCheck
from data_plugin.search.searcher import Searcher
from data_plugin.space.arch import Arch

MAPS, EMBEDDINGS = ("C2", "C3", "C4", "C5"), ("z",)
SETS = ("C5", "C4 C5", "C2 C3 C4 C5", "z")
"""What the paper compares, in its Table 9."""

WAYS = {
    "temperature 0.1": {"temperature": 0.1},
    "temperature 0.4": {"temperature": 0.4},
    "running": {"norm": "running"},
    "recalibrated": {"norm": "recalibrated"},
}
"""How else the distance is measured: the search has a temperature of 0.2, and statistics of the batch."""

Distances = Mapping[str, np.ndarray]
"""Of networks at each tap, (N,)."""


def measured(prepared: PreparedSearch, archs: Sequence[Arch], kept: Path) -> dict[str, Distances]:
    """The networks' distances in each way, which are kept in a file."""
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    supernet = prepared.supernet.at(torch.device("cpu"), **prepared.downstream.resolution.options())
    for way, options in {"": {}, **WAYS}.items():
        if way not in found:
            found[way] = {}
            for taps in (MAPS, EMBEDDINGS) if prepared.supernet.heads else (MAPS,):
                result = Searcher(supernet, taps, **options).measure(archs, prepared.batches)
                order = [result.index[arch] for arch in archs]
                found[way] |= {name: tap.scores[order].tolist() for name, tap in result.taps.items()}
            kept.write_text(json.dumps(found) + "\n")
    return {way: {tap: np.array(scores) for tap, scores in taps.items()} for way, taps in found.items()}


def predictors(own: Sequence[str], ways: Mapping[str, Distances], archs: Sequence[Arch]) -> dict[str, np.ndarray]:
    """What each way says of the networks by its name, more is better, (N,).

    Args:
        own: the taps that the task reads.
        ways: distances of these networks.
        archs: the networks.
    """
    plain, found = ways[""], {}
    sets = dict.fromkeys([" ".join(own), *SETS, *MAPS])
    for name in sets:
        taps = name.split()
        if all(tap in plain for tap in taps):
            found[name] = -np.sum([plain[tap] for tap in taps], axis=0)
            if len(taps) > 1:
                found[f"{name}, each by its spread"] = -np.sum([plain[tap] / plain[tap].std() for tap in taps], axis=0)
    reads = " ".join(own)
    for way in WAYS:
        found[f"{reads}, {way}"] = -np.sum([ways[way][tap] for tap in own], axis=0)
    costs = {name: np.array([of(arch) for arch in archs]) for name, of in RIVALS.items()}
    for name in ("FLOPs", "parameters"):
        found[f"{reads} and {name}"] = rankdata(found[reads]) + rankdata(costs[name])
    return {**found, **costs}


def described(says: Mapping[str, np.ndarray], metric: np.ndarray) -> Iterator[str]:
    """A line for everything that ranks networks, (N,) each, and what it comes to by their metric, (N,)."""
    for name, each in says.items():
        low, high = bootstrap_interval(each, metric)
        yield f"| {name} | {spearman(each, metric):+.2f} | {low:+.2f} to {high:+.2f} | {picked(each, metric):.1f} |"


def of_check(ways: Mapping[str, Distances], archs: Sequence[Arch], check: RankCheck) -> dict[str, Distances]:
    """The distances of the networks of a check."""
    order = [archs.index(each.arch) for each in check.networks]
    return {way: {tap: scores[order] for tap, scores in taps.items()} for way, taps in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="output folder of data-reproduce")
    out = parser.parse_args().table
    run = json.loads((out / RUN).read_text())
    opened = open_table(run["table"], run["scale"], Path(run["data"]), out, run["supernet"])
    picks: dict[str, dict[str, dict[str, float]]] = {}
    for name, (row, experiment) in opened.rows.items():
        report = finished_row("ranking", out / name)
        if report is None:
            continue
        options = search_options(row, experiment, opened.supernet_of(experiment) or "", opened.data, out / name)
        # What is only got ready writes nothing, and asks for a folder that holds nothing.
        prepared = prepare(replace(options, out=out / name / "predictors", resume=False))
        archs = list(dict.fromkeys(each.arch for check in report.rank_checks.values() for each in check.networks))
        ways = measured(prepared, archs, out / name / "predictors.json")
        before = dict(zip(report.candidates.archs, report.candidates.scores.tolist(), strict=True))
        again = np.sum([ways[""][tap] for tap in row.taps], axis=0)
        apart = max(abs(again / [before[arch] for arch in archs] - 1))
        print(f"from the search's own distances these differ by {apart:.1e}")
        for budget, check in report.rank_checks.items():
            metric = np.array([each.mean for each in check.networks])
            spread = f"{check.metric} {metric.min():.1f} to {metric.max():.1f}"
            print(f"\n## {name}, {budget}: {len(metric)} networks, {spread}")
            if check.reach is not None:
                print(f"seeds allow {check.reach:+.2f}")
            print("\n| ranked by | Spearman | at 95 % | its pick |\n| --- | --- | --- | --- |")
            says = predictors(row.taps, of_check(ways, archs, check), [each.arch for each in check.networks])
            print("\n".join(described(says, metric)), flush=True)
            picks.setdefault(budget, {})[f"{name}, {check.metric}"] = {
                taps: picked(says[taps], metric) for taps in SETS if taps in says
            } | {"mean of all": float(metric.mean()), "best": float(metric.max())}
    for budget, tasks in picks.items():
        ways_there = list(dict.fromkeys(way for found in tasks.values() for way in found))
        print(f"\n## What is picked by each set of taps, {budget}\n\n| | {' | '.join(tasks)} |")
        print("| --- |" + " --- |" * len(tasks))
        for way in ways_there:
            print(f"| {way} | {' | '.join(f'{found[way]:.1f}' if way in found else '' for found in tasks.values())} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
