"""A whole clustering: from an embedding store to the codes of its images, in a tree of balanced clusters."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data_plugin.features.balanced_split import balanced_centroids, deal
from data_plugin.features.codes import (
    MOST_CHILDREN,
    Codes,
    CodesHeader,
    fingerprint_of,
    leaf_numbers,
    leaf_sizes,
    require_room,
    write_codes,
)
from data_plugin.features.codes_page import codes_page
from data_plugin.features.store import EmbeddingStore
from data_plugin.features.unit_vectors import unit_vectors
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import launched_ranks

SAMPLE = 8_192
"""Images of a part that its children's centroids are found on, at the most."""

BLOCK = 8_192
"""Images whose features are in memory at once."""

Advance = Callable[[float], None]


def cluster_store(
    store: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    levels: int = 4,
    children: int = 4,
    random: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Codes:
    """Split the images of an embedding store into parts of images alike, these into parts again, and so on.

    The parts of the last level, the leaves, are within a factor of two of each other in size. The same seed gives the
    same codes, however the store is divided into shards.

    Args:
        store: the embedding store.
        out: the folder of the codes.
        levels: how often parts are split.
        children: into how many.
        random: deal the images to parts of equal size at random instead, as a control.
        seed: of everything random.
        overwrite: replace codes in ``out``.

    Raises:
        UserError: if the store cannot be read, has fewer images than there would be leaves, features that are not
            finite, or the same for all images; if the folder holds something else; or under several processes.
    """
    folder = Path(out)
    _check_request(folder, levels, children, overwrite)
    opened = EmbeddingStore(Path(store))
    if opened.images < children**levels:
        raise UserError(
            f"{opened.folder} has {opened.images} images, and {levels} levels of {children} children are "
            f"{children**levels} leaves; expected an image for each at the least: embed more, or take fewer --levels"
        )
    with progress_over(opened.images * (1 if random else levels + 1), "features read") as advance:
        grow = _random_tree if random else _tree
        digits = grow(opened, levels, children, seed, advance)
        leaves = leaf_numbers(digits, children)
        shuffled = np.random.default_rng(seed).permutation(leaves)
        sums, random_sums = _sums(opened, (leaves, shuffled), children**levels, advance)
    _require_apart(sums, opened)
    centroids = [unit_vectors(_up(sums, children**level)) for level in range(levels + 1)]
    names = [name for block in opened for name in block.names]
    header = CodesHeader(
        levels,
        children,
        seed,
        random,
        opened.images,
        leaf_sizes(digits, children),
        _cohesion(sums, levels, children, opened.images),
        _cohesion(random_sums, levels, children, opened.images),
        fingerprint_of(digits, names, opened.unreadable),
        opened.header,
    )
    codes = Codes(folder, header, digits, names, opened.unreadable)
    write_codes(codes, centroids, opened.folder, codes_page(codes, opened, centroids[-1]))
    return codes


def _check_request(folder: Path, levels: int, children: int, overwrite: bool) -> None:
    if levels < 1:
        raise UserError(f"the levels are {levels}; expected at least 1")
    if not 2 <= children <= MOST_CHILDREN:
        raise UserError(f"the children of a part are {children}; expected 2 to {MOST_CHILDREN}")
    if launched_ranks() != (1, 1):
        raise UserError("clustering is the work of one process; do it without torchrun")
    require_room(folder, overwrite)


def _tree(store: EmbeddingStore, levels: int, children: int, seed: int, advance: Advance) -> np.ndarray:
    """The digits of all images, level by level."""
    least, most = _leaf_bounds(store.images, children**levels)
    digits = np.zeros((store.images, levels), np.uint8)
    parts = [np.arange(store.images)]
    for level in range(levels):
        # A part of images that are alike may be larger than others as long as its leaves can be as large as all.
        below = children ** (levels - level - 1)
        for number, part in enumerate(parts):
            random = np.random.default_rng((seed, level, number))
            drawn = np.sort(random.choice(part, min(len(part), SAMPLE), replace=False))
            share = len(drawn) / len(part)
            centroids = balanced_centroids(
                _features(store, drawn),
                children,
                math.floor(least * below * share),
                math.ceil(most * below * share),
                int(random.integers(2**31)),
            )
            similarities = [features @ centroids.T for features in _blocks(store, part, advance)]
            digits[part, level] = deal(np.concatenate(similarities), least * below, most * below)
        parts = [part[digits[part, level] == child] for part in parts for child in range(children)]
    return digits


def _random_tree(store: EmbeddingStore, levels: int, children: int, seed: int, advance: Advance) -> np.ndarray:
    """Digits that say nothing of the images, in parts of equal size."""
    shuffled = np.random.default_rng((seed, store.images)).permutation(store.images)
    leaves = shuffled * children**levels // store.images
    return np.stack(np.unravel_index(leaves, (children,) * levels), axis=1).astype(np.uint8)


def _leaf_bounds(images: int, leaves: int) -> tuple[int, int]:
    """Images of a leaf at the least and at the most, one twice the other, the mean between them."""
    mean = images / leaves
    least = max(math.ceil(mean / 2), round(2 * mean / 3))
    return least, 2 * least


def _blocks(store: EmbeddingStore, images: np.ndarray, advance: Advance) -> Iterator[np.ndarray]:
    for block in np.array_split(images, math.ceil(len(images) / BLOCK)):
        yield _features(store, block)
        advance(len(block))


def _features(store: EmbeddingStore, images: np.ndarray) -> np.ndarray:
    """Features (N, C) in double precision, in which their similarities and sums are exact."""
    features = store.features(images).astype(np.float64)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        (path,) = store.paths(images[[finite.argmin()]])
        raise UserError(f"{store.folder} holds a feature that is not finite, of {path}; embed the images again")
    return features


def _sums(store: EmbeddingStore, of: tuple[np.ndarray, ...], leaves: int, advance: Advance) -> list[np.ndarray]:
    """For each way of numbering the images, the sum (leaves, C) of the features of each leaf."""
    sums = [np.zeros((leaves, store.header.dim)) for _ in of]
    start = 0
    for features in _blocks(store, np.arange(store.images), advance):
        rows = np.arange(len(features))
        for numbers, total in zip(of, sums, strict=True):
            membership = (np.ones(len(rows)), (numbers[start + rows], rows))
            total += csr_array(membership, shape=(leaves, len(rows))) @ features
        start += len(rows)
    return sums


def _up(sums: np.ndarray, parts: int) -> np.ndarray:
    """The sums of the parts of a higher level."""
    return sums.reshape(parts, -1, sums.shape[1]).sum(axis=1)


def _require_apart(sums: np.ndarray, store: EmbeddingStore) -> None:
    whole = float(np.linalg.norm(_up(sums, 1)))
    if math.isclose(whole, float(np.linalg.norm(sums, axis=1).sum()), rel_tol=1e-9):
        raise UserError(
            f"the features in {store.folder} are the same for all images, so there is nothing to cluster; embed them "
            "with another network, or with --calibrate"
        )


def _cohesion(sums: np.ndarray, levels: int, children: int, images: int) -> tuple[float, ...]:
    """By level, the mean similarity of an image to the centroid of its part: of length 1, it is the sum's direction."""
    lengths = (np.linalg.norm(_up(sums, children ** (level + 1)), axis=1) for level in range(levels))
    return tuple(float(each.sum()) / images for each in lengths)
