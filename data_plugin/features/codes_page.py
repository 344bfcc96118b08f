"""Codes as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.thumbnails import thumbnails
from data_plugin.utils.drawing import figure, svg
from data_plugin.utils.templates import template

LEAVES, SHOWN = 16, 10
"""Leaves on the contact sheet, and images of each."""

PARTS, RANDOM = "#2c7a3f", "#c3ccd6"


def codes_page(codes: Codes, store: EmbeddingStore, centroids: np.ndarray) -> str:
    """The whole page.

    Args:
        codes: the codes.
        store: what they were made of.
        centroids: those of the leaves.
    """
    header = codes.header
    network = header.store.network
    return template(__package__, "codes.html.j2").render(
        said=str(codes).splitlines(),
        sizes_plot=Markup(_sizes_plot(codes)),
        cohesion_plot=Markup(_cohesion_plot(codes)),
        leaves=_contact_sheet(codes, store, centroids),
        run={
            "embedding store": store.folder,
            "images": header.store.source["path"],
            "network": f"{network['arch']} of {network['file']}, {network['tap']}",
            "levels": header.levels,
            "children": header.children,
            "dealt": "at random" if header.random else "by balanced clusters",
            "seed": header.seed,
        },
    )


def _sizes_plot(codes: Codes) -> str:
    plot = figure(2.6)
    axes = plot.subplots()
    axes.bar(range(codes.header.leaves), sorted(codes.header.sizes, reverse=True), width=0.9, color=PARTS)
    axes.set_xlabel("leaves, the largest first")
    axes.set_ylabel("images")
    return svg(plot)


def _cohesion_plot(codes: Codes) -> str:
    header = codes.header
    levels = np.arange(1, header.levels + 1)
    plot = figure(2.8)
    axes = plot.subplots()
    axes.plot(levels, header.cohesion, color=PARTS, marker="o", label="these parts")
    axes.plot(levels, header.random_cohesion, color=RANDOM, marker="o", label="random parts of the same sizes")
    axes.set_xticks(levels, [f"{header.children**level:,}" for level in levels.tolist()])
    axes.set_xlabel("parts")
    axes.set_ylabel("mean similarity")
    axes.legend(frameon=False)
    return svg(plot)


def _contact_sheet(codes: Codes, store: EmbeddingStore, centroids: np.ndarray) -> list[tuple[str, Sequence[object]]]:
    """Some of the leaves, evenly among all, by their codes: images from the nearest to the farthest of the centroid."""
    leaves = leaf_numbers(codes.digits, codes.header.children)
    rows = []
    for leaf in _evenly(codes.header.leaves, LEAVES):
        members = np.flatnonzero(leaves == leaf)
        nearest = members[np.argsort(-(store.features(members) @ centroids[leaf]), kind="stable")]
        code = ",".join(map(str, codes.digits[members[0]].tolist()))
        rows.append((code, store.paths(nearest[_evenly(len(nearest), SHOWN)])))
    pictures = thumbnails(path for _, paths in rows for path in paths)
    return [(code, [pictures[path] for path in paths]) for code, paths in rows]


def _evenly(count: int, shown: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, shown).round().astype(int))
