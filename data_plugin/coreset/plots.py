"""The plots of a selection, as SVG."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from data_plugin.coreset.chosen import Coreset
from data_plugin.coreset.rounds import REFERENCE
from data_plugin.features.store import EmbeddingStore
from data_plugin.utils.drawing import figure, svg

POINTS = 2_000
"""Images of the open set, of the target and of the coreset that are drawn at the most, each."""

OPEN, TARGET, CORESET = "#c3ccd6", "#c0562f", "#2c7a3f"


def similarity_plot(coreset: Coreset) -> str:
    """Mean similarity by round, with the threshold and the round that fell below it."""
    chosen = coreset.chosen
    plot = figure(3.2)
    axes = plot.subplots()
    similarities = [each.similarity for each in chosen.rounds]
    axes.plot(range(1, len(similarities) + 1), similarities, color=CORESET, marker=".", markersize=3)
    if chosen.threshold is not None:
        axes.axhline(chosen.threshold, color=TARGET, linestyle="--", linewidth=1)
        axes.axvline(REFERENCE, color=OPEN, linewidth=1)
    if chosen.discarded is not None:
        axes.plot(len(similarities) + 1, chosen.discarded.similarity, "x", color=TARGET, markersize=9)
    axes.set_xlabel("round")
    axes.set_ylabel("mean cosine similarity")
    return svg(plot)


def picture(coreset: Coreset, opened: EmbeddingStore, target: np.ndarray, seed: int) -> str:
    """Open set, target and coreset in the two directions in which they vary most.

    Args:
        coreset: what was chosen.
        opened: the open set.
        target: the target's features (N, C).
        seed: of which images are drawn.
    """
    random = np.random.default_rng(seed)
    chosen = np.asarray(coreset.chosen.images, dtype=np.int64)
    groups = {
        "open set": opened.features(_some(opened.images, random)),
        "coreset": opened.features(chosen[_some(len(chosen), random)]),
        "target": target[_some(len(target), random)],
    }
    # Of all three alike, however many images each has.
    projection = PCA(2, random_state=seed).fit(np.concatenate(list(groups.values())))
    plot = figure(5.2)
    axes = plot.subplots()
    for (name, features), colour in zip(groups.items(), (OPEN, CORESET, TARGET), strict=True):
        across, up = projection.transform(features).T
        axes.scatter(across, up, s=9, color=colour, label=name, rasterized=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False)
    return svg(plot)


def _some(count: int, random: np.random.Generator) -> np.ndarray:
    return np.sort(random.choice(count, min(count, POINTS), replace=False))
