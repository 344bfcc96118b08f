"""How the figures of a search are written, in a terminal as on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_plugin.frameworks.finetuned import Weights
from data_plugin.search.downstream import TORCHVISION
from data_plugin.search.knowledge import FEWEST, Knowledge
from data_plugin.search.report.finetuning import RANDOM, WINNER
from data_plugin.search.report.rank_check import CHANCE, DISTANCE, Predictor, RankCheck
from data_plugin.search.report.search_report import SearchReport, Winner
from data_plugin.search.rivals import RESNET50, Rival
from data_plugin.search.taps import EMBEDDING

COSTS = {
    "flops": ("GFLOPs", 1e9, ".3f"),
    "params": ("parameters (M)", 1e6, ".2f"),
    "latency": ("latency (ms)", 1e-3, ".2f"),
    "memory": ("memory (MB)", 2.0**20, ".1f"),
}
"""Label, unit and format of each cost."""


def cost_label(quantity: str, input_size: Sequence[int] | None = None) -> str:
    """What a column of a cost is called; FLOPs at another size than 224 x 224 say so."""
    label = COSTS[quantity][0]
    return f"{label} at {input_size[0]}x{input_size[1]}" if quantity == "flops" and input_size else label


def cost_text(quantity: str, value: float) -> str:
    """A cost, given in multiply-accumulates, numbers, s or bytes, in the unit of its label."""
    _, unit, precision = COSTS[quantity]
    return f"{value / unit:{precision}}"


def decimals(value: float, digits: int = 4) -> str:
    """A value with so many significant digits, as plain decimals."""
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def score_label(report: SearchReport) -> str:
    """What a score is."""
    if list(report.taps) == [EMBEDDING]:
        return "cosine distance"
    return "divergence per position" if report.reduction == "mean" else "divergence"


def supernet_text(supernet: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> str:
    """Which supernet is searched, what trained it, and whether labels had a part in that.

    Args:
        supernet: what a report's ``run`` says of it.
        training: what its file says of its training; None leaves it out.
    """
    said = training or {}
    on = (
        f" on {said['images']:,} images of {said['image_size']} pixels, {said['steps']:,} steps"
        if "steps" in said
        else ""
    )
    labels: dict[bool | None, str] = {
        True: "; a teacher of its weights saw labels, so they are not self-supervised",
        False: "; its teacher saw no labels",
    }
    return f"{supernet['path']}, trained with {supernet['method']}{on}{labels.get(supernet.get('saw_labels'), '')}"


def knowledge_text(known: Knowledge | None, external: Sequence[str] = ()) -> str:
    """What the teacher of a search knows of its images, loud where that is little.

    Args:
        known: what was found out of the supernet's own teacher; None where it was not looked at.
        external: the words that name another teacher.
    """
    if external:
        return f"{external[0]}, from outside the supernet and not checked"
    if known is None:
        return f"not checked: below {FEWEST} images nothing can be said"
    least, most = min(known.random), max(known.random)
    told = (
        f"its features of {known.images} images differ in {known.teacher:.1f} directions, those of random weights in "
        f"{least:.1f} to {most:.1f}"
    )
    if known.suffices:
        return told
    return (
        f"KNOWS NO MORE OF THESE IMAGES THAN RANDOM WEIGHTS: {told}. Closeness to it is worth nothing, and the ranking "
        "may be upside down: pre-train the supernet for longer, or on images more like these"
    )


def latency_text(report: SearchReport) -> str | None:
    """Where latencies are from, if not from this device, and how sure they are; None where they are from here."""
    table = report.run.get("latency_table")
    if table is None:
        return None
    return (
        f"latency is that of {table['place']}, composed of blocks by {table['path']}, there {table['accuracy']}; "
        "the winners were not measured whole"
    )


def beside(report: SearchReport) -> list[list[str]]:
    """A table of what is beside the closest network of every budget, its heading first; empty where nothing is."""
    if not report.rivals:
        return []
    rows = [["budget", "network", "architecture", cost_label("flops"), cost_label("params"), score_label(report)]]
    rows[0] += ["way to the teacher", *_finetuned_label(report)]
    for budget in report.budgets:
        networks: list[tuple[str, Winner | Rival]] = [(WINNER, report.closest(budget))]
        networks += [(rival.name, rival) for rival in report.rivals if rival.budget == budget]
        for name, network in networks:
            standing = decimals(network.score), way_text(report, network.score)
            rows.append([budget, name, *_costs(network), *standing, *_finetuned(report, budget, name)])
        scores = report.scores_within(budget)
        if report.random and len(scores) > 1:
            mean, low, high = (way_text(report, score) for score in (scores.mean(), scores.max(), scores.min()))
            row = [budget, f"{RANDOM} (of {len(scores)})", "", "", "", decimals(float(scores.mean()))]
            rows.append([*row, f"{mean} ({low} to {high})", *_finetuned(report, budget, RANDOM)])
        untrained = next((each for name, each in networks if name == RESNET50), None)
        if untrained is not None and report.finetuning is not None:
            row = [budget, f"{RESNET50}, random weights", *_costs(untrained), "", ""]
            rows.append([*row, *_finetuned(report, budget, RESNET50, "random")])
    return rows


def _costs(network: Winner | Rival) -> tuple[str, str, str]:
    return str(network.arch), cost_text("flops", network.flops), cost_text("params", network.params)


def _finetuned_label(report: SearchReport) -> list[str]:
    """The heading of what networks came to in the framework, where they were fine-tuned."""
    tuned = report.finetuning
    unit = "epochs" if report.framework == TORCHVISION else "iterations"
    return [] if tuned is None else [f"{tuned.metric} after {tuned.iterations} {unit}"]


def _finetuned(report: SearchReport, budget: str, name: str, weights: Weights = "supernet") -> list[str]:
    """What a network came to, in the column of :func:`_finetuned_label`."""
    if report.finetuning is None:
        return []
    return [seeds_text(report.finetuning.values(budget, name, weights))]


def seeds_text(values: Sequence[float]) -> str:
    """A figure in per cent: of several seeds the mean, and the least and the greatest."""
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def way_text(report: SearchReport, score: float) -> str:
    """How much of the way from the farthest network to the teacher a score has come, in per cent."""
    return f"{100 * report.share(float(score)):.0f} %"


def images_text(report: SearchReport) -> str:
    """How many images were looked at, and where they are from if they are not the config's."""
    count, source = len(report.images.names), report.run.get("image_source")
    return f"{count} images" if source is None else f"{count} images from {source}"


def lead_text(winner: Winner) -> str:
    """How far a winner leads its runner-up."""
    if winner.lead is None:
        return "none to compare with"
    error = "" if winner.lead_error is None else f" ± {decimals(winner.lead_error, 2)}"
    return f"{decimals(winner.lead)}{error}"


def certainty_text(winner: Winner) -> str:
    """Whether the images tell a winner apart from the others."""
    if winner.runner_up is None:
        return "no other was compared on all images"
    others = winner.compared - 1
    if not winner.not_told_apart:
        return f"closer than all {others} others" if others > 1 else "closer than the other"
    return f"not told apart from {winner.not_told_apart} of {others}"


def approximation_texts(report: SearchReport) -> list[str]:
    """What made the search faster or smaller, and what that cost."""
    texts = []
    if report.rows:
        most = float(report.candidates.sampling_errors.max())
        share = f"up to {decimals(most, 2)} of a score's standard error" if most else "no map has more, so it is exact"
        texts.append(f"relations from {report.rows} drawn rows an image and tap: {share}")
    if report.images.split:
        statistics = {
            "batch": "of the parts",
            "recalibrated": "of whole batches where these fit without relations, else of parts",
            "running": "the supernet's",
        }
        texts.append(
            f"compared in parts to stay within the memory: {report.images.split} of {report.images.batches} batches, "
            f"up to {report.images.most_parts} parts; batch-norm statistics are {statistics[report.norm]}"
        )
    if report.dropped:
        texts.append(f"dropped before they saw all images: {len(report.dropped)} networks")
    return texts


def trust_texts(report: SearchReport) -> list[str]:
    """How far to trust a search: what its teacher knows, what the images tell apart, and what fine-tuning has shown."""
    texts = [f"the teacher: {knowledge_text(report.knowledge, report.run.get('search_teacher', ()))}"]
    for winner in report.winners:
        name = f"{winner.budget}: {winner.arch}" if report.pareto else winner.budget
        texts.append(f"{name}: {certainty_text(winner)}")
    if not report.rank_checks:
        texts.append(f"whether closeness to the teacher ranks networks as labels do was not looked at; {_how(report)}")
        return texts
    for name, check in report.rank_checks.items():
        texts += [f"{name}: {text}" for text in rank_texts(check)]
    if not report.random:
        texts.append("the networks are of those that the strategy has left, and no random draw of their budget")
    return texts


def _how(report: SearchReport) -> str:
    """How to find out whether a search ranks networks as labels do."""
    labelled = " --train TRAIN --val VAL" if report.framework == TORCHVISION else ""
    return f"data-rank-check --search FOLDER --finetune N{labelled} fine-tunes some, with the folder of this report"


def rank_texts(check: RankCheck) -> list[str]:
    """What a rank check has found, in sentences."""
    distance, metric, count = check.predictor(DISTANCE), check.metric, len(check.networks)
    length = f"after {check.length}"
    if distance.spearman is None or distance.interval is None or distance.picked is None:
        return [f"{count} networks cannot be ranked: {metric} {length}, or the distance, is the same in all of them"]
    low, high = distance.interval
    # Of few networks a bootstrap knows too little: an order drawn at random may be as good.
    by_chance = check.predictor(CHANCE).interval or (-1.0, 1.0)
    if low > 0 and distance.spearman > by_chance[1]:
        verdict = f"the distance ranks {count} networks by {metric} {length}"
    elif high < 0 and distance.spearman < by_chance[0]:
        verdict = f"THE DISTANCE RANKS {count} networks by {metric} {length} UPSIDE DOWN"
    else:
        verdict = f"it is not shown that the distance ranks {count} networks by {metric} {length}"
    interval, chance = interval_text(distance), "{:+.2f} to {:+.2f}".format(*by_chance)
    texts = [f"{verdict}: Spearman {distance.spearman:+.2f}, {interval} at 95 % confidence, random orders {chance}"]
    if check.agreement is None or check.reach is None:
        texts.append("with one seed it is not known how far any ranking could agree; give two --seeds")
    else:
        texts.append(
            f"trainings that differ by their seed alone agree to {check.agreement:+.2f}, so a ranking without any "
            f"error would come to about {check.reach:+.2f}"
        )
    better = [rival for rival in check.rivals if (rival.spearman or 0) > max(distance.spearman, 0)]
    if better:
        named = ", ".join(f"{rival.name} ({rival.spearman:+.2f})" for rival in better)
        texts.append(f"ranked better without a search by {named}")
    elif check.rivals:
        none = (
            "no rival ranks better; the next is"
            if distance.spearman > 0
            else "no rival ranks them, either; the best is"
        )
        texts.append(f"{none} {check.rivals[0].name} ({check.rivals[0].spearman:+.2f})")
    mean = sum(network.mean for network in check.networks) / count
    texts.append(f"its pick has {metric} {distance.picked:.1f}, the best {check.best:.1f}, a random one {mean:.1f}")
    return texts


def rank_table(check: RankCheck) -> list[list[str]]:
    """How well everything ranks the networks of a rank check, its heading first."""
    rows = [["ranked by", "Spearman", "at 95 %", f"{check.metric} of its pick", "below the best"]]
    for each in check.predictors:
        spearman = "" if each.spearman is None else f"{each.spearman:+.2f}"
        taken = ["", ""] if each.picked is None else [f"{each.picked:.1f}", f"{check.best - each.picked:.1f}"]
        rows.append([each.name, spearman, interval_text(each), *taken])
    return rows


def interval_text(predictor: Predictor) -> str:
    """Between which bounds a correlation is."""
    return "" if predictor.interval is None else "{:+.2f} to {:+.2f}".format(*predictor.interval)
