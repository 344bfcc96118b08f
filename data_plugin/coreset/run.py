"""A whole selection: from two embedding stores to the list of images that pre-training reads."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin import __version__
from data_plugin.coreset.centroids import CLUSTERS, centroids_of
from data_plugin.coreset.chosen import Coreset
from data_plugin.coreset.page import selection_page
from data_plugin.coreset.remaining import Remaining
from data_plugin.coreset.rounds import MOST, Rounds, choose
from data_plugin.features.store import EmbeddingStore
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.provenance import installed_versions
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, rank, rank_count

JSON, HTML = "selection.json", "selection.html"
"""What is written beside the list."""

SHORTEST = 1_024
"""Images in a centroid's list at the least."""

SPARE = 2
"""How many times the images in a centroid's list are those that it takes of a budget if all take alike."""


def select_coreset(
    open_set: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    budget: str | int | None = None,
    random: bool = False,
    clusters: int = CLUSTERS,
    seed: int = 0,
    keep_duplicates: bool = False,
    overwrite: bool = False,
) -> Coreset:
    """Choose the images of an open set that are near a target (SimCore), in all processes of torchrun or SLURM.

    Args:
        open_set: the embedding store of the images to choose from.
        target: that of the target's images, by the same network.
        out: the list to write; ``selection.json`` and ``selection.html`` come beside it.
        budget: how many images, or which part of the open set, such as "1%"; None goes on until the images are too far
            from the target, and to 50 times its images at the most.
        random: choose at random instead, as a baseline; needs a budget.
        clusters: centroids of the target; its images themselves where there are no more.
        seed: of clusters, shuffling and random choice.
        keep_duplicates: let images be chosen whose pixels are those of an image of the target.
        overwrite: replace what an earlier selection wrote.

    Raises:
        UserError: if a store cannot be read, is empty or holds a feature that is not finite, the two are of different
            networks or preprocessing, the target is larger than the open set, the budget is none, or a file that would
            be written is there already.
    """
    path = Path(out)
    check_request(path, budget=budget, random=random, clusters=clusters, overwrite=overwrite)
    with joined_ranks():
        opened, targets = EmbeddingStore(Path(open_set)), EmbeddingStore(Path(target))
        _require_comparable(opened, targets)
        features = targets.features(range(targets.images))
        if not np.isfinite(features).all():
            raise UserError(f"{targets.folder} holds a feature that is not finite; embed the images again")
        duplicates = [] if keep_duplicates else _duplicates(opened, targets)
        left = opened.images - len(duplicates)
        if not left:
            raise UserError(
                f"all images of {opened.folder} are the target's; expected others, or --keep-duplicates to choose them"
            )
        most = MOST * targets.images if budget is None else _budget(budget, left)
        centroids = from_first(centroids_of(features, clusters, seed) if rank() == 0 else np.empty(0))
        if random:
            chosen = Rounds(_drawn(opened.images, duplicates, most, seed), [], "budget")
        else:
            length = SHORTEST if budget is None else max(SHORTEST, SPARE * math.ceil(most / len(centroids)))
            chosen = choose(Remaining(opened, centroids, length, duplicates), most, stop=budget is None)
        coreset = Coreset(path, opened.images, targets.images, duplicates, chosen)
        if rank() == 0:
            _write(coreset, opened, targets, features, centroids, seed, {"budget": budget, "random": random})
        from_all(None)  # all go on when the files are there
    return coreset


def _require_comparable(opened: EmbeddingStore, targets: EmbeddingStore) -> None:
    for store in (opened, targets):
        if not store.images:
            raise UserError(f"{store.folder} is empty: none of its images could be read; embed images that can be read")
    weights = opened.header.network["sha256"] != targets.header.network["sha256"]
    fields = ["network"] if weights or opened.header.network["tap"] != targets.header.network["tap"] else []
    different = opened.header.difference(targets.header, [*fields, "preprocessing"])
    if different:
        raise UserError(
            f"{opened.folder} and {targets.folder} cannot be compared: they differ in {different}; embed both with the "
            "same network, --tap, --image-size and --calibrate"
        )
    if targets.images > opened.images:
        raise UserError(
            f"the target {targets.folder} has {targets.images} images and the open set {opened.folder} has "
            f"{opened.images}; expected an open set that is larger, or the two the other way round"
        )


def check_request(path: Path, *, budget: str | int | None, random: bool, clusters: int, overwrite: bool) -> None:
    """Check what can be checked of a selection before its images are embedded; see :func:`select_coreset`.

    Raises:
        UserError: if something is asked for that no images can give, or a file would be replaced that may not.
    """
    if budget is not None:
        _part(budget)
    if clusters < 1:
        raise UserError(f"the target's clusters are {clusters}; expected at least 1")
    if random and budget is None:
        raise UserError("a random choice has nothing that stops it; give a budget, such as 1% or 5000")
    if path.suffix != ".txt":
        raise UserError(f"{path} does not end in .txt; a list of images does, for data-pretrain to read it")
    if not overwrite:
        for each in (path, path.with_name(JSON), path.with_name(HTML)):
            if each.exists():
                raise UserError(f"{each} exists already; give --out in another folder, or pass --overwrite")


def _part(budget: str | int) -> float | int:
    """A part of the open set, or a number of images."""
    text = str(budget)
    try:
        part = float(text.removesuffix("%")) / 100 if text.endswith("%") else int(text)
    except ValueError:
        part = math.nan
    if not part > 0 or (isinstance(part, float) and part > 1):
        raise UserError(
            f"the budget is {text!r}; expected a number of images, such as 5000, or a part, 100% at the most"
        )
    return part


def _budget(budget: str | int, images: int) -> int:
    """How many of so many images a budget is."""
    part = _part(budget)
    if part > images:
        raise UserError(
            f"the budget is {budget}, and there are {images} images to choose from; expected at most as many"
        )
    return max(1, round(part * images)) if isinstance(part, float) else part


def _duplicates(opened: EmbeddingStore, targets: EmbeddingStore) -> list[int]:
    """Which images of the open set have the pixels of one of the target."""
    pixels = {each for block in targets for each in block.pixels}
    own = [
        block.start + row
        for block in map(opened.__getitem__, range(rank(), len(opened), rank_count()))
        for row, each in enumerate(block.pixels)
        if each in pixels
    ]
    return sorted(itertools.chain(*from_all(own)))


def _drawn(images: int, without: Sequence[int], count: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).choice(images, count + len(without), replace=False)
    left_out = set(without)
    return [image for image in drawn.tolist() if image not in left_out][:count]


def _write(
    coreset: Coreset,
    opened: EmbeddingStore,
    targets: EmbeddingStore,
    features: np.ndarray,
    centroids: np.ndarray,
    seed: int,
    asked_for: dict[str, Any],
) -> None:
    chosen = opened.paths(coreset.chosen.images)
    joined = list(dict.fromkeys([*chosen, *targets.paths(range(targets.images))]))
    shuffled = np.random.default_rng(seed).permutation(len(joined)).tolist()
    page = selection_page(coreset, opened, features, targets, centroids, seed)
    values = {
        **asked_for,
        "seed": seed,
        "clusters": len(centroids),
        "open": {"store": str(opened.folder), "images": opened.images, **opened.header.to_json()},
        "target": {"store": str(targets.folder), "images": targets.images, **targets.header.to_json()},
        "duplicates": opened.paths(coreset.duplicates),
        "images": len(chosen),
        "stopped": coreset.chosen.stopped,
        "threshold": coreset.chosen.threshold,
        "discarded": None if coreset.chosen.discarded is None else coreset.chosen.discarded.similarity,
        "rounds": list(_rounds(coreset.chosen)),
        "coreset": chosen,
        "versions": {"data_plugin": __version__, **installed_versions(("torch", "numpy", "scikit-learn"))},
    }
    text = json.dumps(values, indent=1) + "\n"
    write_whole(coreset.path.with_name(HTML), lambda file: file.write_text(page, encoding="utf-8"))
    write_whole(coreset.path.with_name(JSON), lambda file: file.write_text(text, encoding="utf-8"))
    lines = "".join(f"{joined[index]}\n" for index in shuffled)
    write_whole(coreset.path, lambda file: file.write_text(lines, encoding="utf-8"))


def _rounds(chosen: Rounds) -> Iterator[dict[str, Any]]:
    """Of every round its mean similarity and how many images of the coreset came with it."""
    left = len(chosen.images)
    for each in chosen.rounds:
        new = min(len(set(each.images)), left)
        left -= new
        yield {"similarity": each.similarity, "images": new}
