"""The plots of a search's report, as SVG."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_plugin.search.report.rank_check import DISTANCE, RankCheck
from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.report.words import COSTS, cost_label, score_label
from data_plugin.space.arch import STAGES
from data_plugin.space.pareto import pareto_front
from data_plugin.utils.drawing import figure, svg

POINTS = 2_000
"""Points from which on a scatter plot is drawn in pixels, which a browser shows at once however many there are."""


def cost_plots(report: SearchReport) -> Iterator[str]:
    """Score against FLOPs, and against every other cost that a budget bounds."""
    candidates = report.candidates
    if "flops" not in candidates.costs or report.input_size:
        yield _cost_plot(report, candidates.flops, "flops", cost_label("flops"))
    for quantity, paid in candidates.costs.items():
        yield _cost_plot(report, paid, quantity, cost_label(quantity, report.input_size))


def choice_plot(report: SearchReport) -> str:
    """Score by every choice that an architecture makes: one panel per stage for its depth, and one for its width."""
    table = np.array([arch.row for arch in report.candidates.archs])
    scores = report.candidates.scores
    plot = figure(4.6)
    panels = plot.subplots(2, STAGES + 1, sharey=True)
    panels[1, 0].axis("off")
    for column in range(table.shape[1]):
        depth = column > STAGES
        stage = column - STAGES if depth else column
        axes = panels[int(depth), stage]
        choices = np.unique(table[:, column])
        groups = [scores[table[:, column] == choice] for choice in choices]
        axes.boxplot(groups, tick_labels=[str(choice) for choice in choices], showfliers=False, widths=0.6)
        axes.set_title("stem width" if stage == 0 else f"stage {stage} {'depth' if depth else 'width'}", fontsize=9)
        axes.tick_params(labelsize=7)
    panels[1, 1].tick_params(labelleft=True)
    return svg(plot)


def rank_plot(check: RankCheck) -> str:
    """What fine-tuned networks come to, by everything that ranks them, a panel each; bars are the seeds' range."""
    means = np.array([network.mean for network in check.networks])
    spread = np.abs(np.array([(min(each.values), max(each.values)) for each in check.networks]).T - means)
    names = list(check.networks[0].predictors)
    plot = figure(2.8)
    for axes, name in zip(plot.subplots(1, len(names), sharey=True), names, strict=True):
        column = [network.predictors[name] for network in check.networks]
        axes.errorbar(column, means, spread, fmt="o", markersize=4, linewidth=1, color="#2c5f8a")
        axes.set_xlabel(name, fontsize=9)
        axes.tick_params(labelsize=7)
        if name == DISTANCE:  # of which less is better; so the best are at the right of every panel
            axes.invert_xaxis()
            axes.set_ylabel(check.metric)
    return svg(plot)


def _cost_plot(report: SearchReport, costs: np.ndarray, quantity: str, label: str) -> str:
    """Score against a cost, with the front of networks that no cheaper one is as close as."""
    plot = figure(4.2)
    axes = plot.subplots()
    candidates = report.candidates
    best = {winner.arch for winner in report.winners}
    points = np.column_stack([costs / COSTS[quantity][1], candidates.scores])
    chosen = np.array([arch in best for arch in candidates.archs])
    axes.scatter(points[:, 0], points[:, 1], s=14, color="#9fb0c3", rasterized=len(points) > POINTS)
    axes.scatter(points[chosen, 0], points[chosen, 1], s=64, color="#2c7a3f")
    axes.step(*points[pareto_front(points)].T, where="post", color="#c0562f")
    axes.set_xlabel(label)
    axes.set_ylabel(score_label(report))
    axes.legend(["candidates", "winners", "Pareto front"], frameon=False)
    return svg(plot)
