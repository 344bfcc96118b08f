"""A selection as one HTML page that needs no network."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from data_plugin.coreset.chosen import Coreset
from data_plugin.coreset.contact_sheet import contact_sheet
from data_plugin.coreset.plots import POINTS, picture, similarity_plot
from data_plugin.features.store import EmbeddingStore
from data_plugin.utils.templates import template


def selection_page(
    coreset: Coreset,
    opened: EmbeddingStore,
    target: np.ndarray,
    targets: EmbeddingStore,
    centroids: np.ndarray,
    seed: int,
) -> str:
    """The whole page.

    Args:
        coreset: what was chosen.
        opened: the open set.
        target: the target's features (N, C).
        targets: the target.
        centroids: the target's centroids (K, C).
        seed: of which images are drawn.
    """
    network = opened.header.network
    return template(__package__, "selection.html.j2").render(
        said=str(coreset).splitlines(),
        similarity_plot=Markup(similarity_plot(coreset)) if coreset.chosen.rounds else "",
        picture=Markup(picture(coreset, opened, target, seed)),
        points=POINTS,
        rows=contact_sheet(coreset, opened, target, targets, centroids),
        run={
            "open set": opened.header.source["path"],
            "target": targets.header.source["path"],
            "network": f"{network['arch']} of {network['file']}, {network['tap']}",
            "centroids": len(centroids),
            "seed": seed,
        },
    )
