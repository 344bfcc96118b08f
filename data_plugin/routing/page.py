"""A routing as one HTML page that needs no network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.features.embedder import Embedder
from data_plugin.images.batch import ImageBatches
from data_plugin.images.input_format import InputFormat
from data_plugin.images.thumbnails import Thumbnail, thumbnail, thumbnails
from data_plugin.routing.accuracies import Accuracies
from data_plugin.routing.recropped import shown
from data_plugin.routing.route import Route, in_words
from data_plugin.utils.drawing import figure, svg
from data_plugin.utils.templates import template

SUB_NETS, SHOWN = 5, 7
"""Sub-nets on the contact sheet, and how many images of the task and of the pre-training stand for each."""

BARS = 40
"""Sub-nets in the plot at the most."""

ROUTE, OTHERS, UNIFIED = "#2c7a3f", "#c3ccd6", "#c0562f"


@dataclass(frozen=True)
class Row:
    """One sub-net on the contact sheet.

    Args:
        path: the sub-net.
        share: the part of the task's images that fall to it.
        own: some of these.
        seen: some of the images that it was trained on.
    """

    path: str
    share: str
    own: Sequence[Thumbnail]
    seen: Sequence[Thumbnail]


def route_page(
    route: Route, codes: Codes, leaves: np.ndarray, drawn: ImageBatches, embedder: Embedder, about: Mapping[str, Any]
) -> str:
    """The whole page.

    Args:
        route: what came of it.
        codes: what the supernet was trained with.
        leaves: the number of the sub-net that each image falls to, (N,).
        drawn: the images, as the embedder sees them.
        embedder: the network of the codes.
        about: what was run.
    """
    return template(__package__, "route.html.j2").render(
        said=str(route).splitlines(),
        plot=Markup(_plot(route)),
        accuracies=Markup(_accuracy_plot(route, route.accuracies)) if route.accuracies else "",
        rows=_contact_sheet(route, codes, leaves, drawn, embedder),
        run={name: value for name, value in _flat(about) if value is not None},
    )


def _plot(route: Route) -> str:
    """The share of the images by sub-net, most first, the route in its own colour."""
    votes = route.votes
    ranking = votes.ranking[:BARS]
    plot = figure(3)
    axes = plot.subplots()
    colours = [ROUTE if path == route.path else OTHERS for path, _ in ranking]
    axes.bar(range(len(ranking)), [100 * count / votes.images for _, count in ranking], color=colours)
    axes.set_xticks(range(len(ranking)), [in_words(path) for path, _ in ranking], rotation=90, fontsize=7)
    axes.set_ylabel("% of the images")
    return svg(plot)


def _accuracy_plot(route: Route, accuracies: Accuracies) -> str:
    """Accuracy on the labelled images by the share of the task's images, a point for each sub-net."""
    plot = figure(3.2)
    axes = plot.subplots()
    for path, accuracy in zip(accuracies.paths, accuracies.by_sub_net.tolist(), strict=True):
        chosen = path == route.path
        share = 100 * route.votes.share(path)
        axes.plot(share, 100 * accuracy, "o", color=ROUTE if chosen else OTHERS, markersize=9 if chosen else 5)
    if accuracies.unified is not None:
        axes.axhline(100 * accuracies.unified.mean(), color=UNIFIED, linestyle="--", linewidth=1)
    axes.set_xlabel("% of the images")
    axes.set_ylabel("accuracy in %")
    return svg(plot)


def _contact_sheet(
    route: Route, codes: Codes, leaves: np.ndarray, drawn: ImageBatches, embedder: Embedder
) -> list[Row]:
    paths = list(dict.fromkeys([route.path, *(path for path, _ in route.votes.ranking)]))[:SUB_NETS]
    indices = list(itertools.chain(*drawn.parts))
    trained_on = leaf_numbers(codes.digits, codes.header.children)
    input_format = InputFormat.from_json(embedder.preprocessing["input_format"])
    rows = []
    for path in paths:
        number = route.votes.number(path)
        own = [
            thumbnail(drawn.source.names[index], shown(drawn.source[index].pixels, input_format))
            for index in (indices[place] for place in np.flatnonzero(leaves == number)[:SHOWN].tolist())
        ]
        seen = thumbnails(_evenly_named(codes, np.flatnonzero(trained_on == number)))
        rows.append(Row(in_words(path), f"{route.votes.share(path):.1%}", own, list(seen.values())))
    return rows


def _evenly_named(codes: Codes, images: np.ndarray) -> list[str]:
    places = np.unique(np.linspace(0, len(images) - 1, SHOWN).round().astype(int))
    return [f"{codes.header.store.source['root']}/{codes.names[image]}" for image in images[places].tolist()]


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _flat(value, f"{above}{name} ") if isinstance(value, Mapping) else [(above + name, value)]
    return found
