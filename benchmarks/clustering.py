"""Do the parts of a clustering mean something? Beside labels that it has not seen: those of class folders.

*purity*: the part of the images that are of the commonest class of their part; of random parts of the same sizes beside
it. *own*: the part of the images to whom the nearest centroids give the code that they have.

Then some classes, neighbours in the order of their names, are a task of their held images. Its route is the part that
*most images* fall to, as ``data-route`` has it, or the one whose centroid is *on the mean* the most similar to them.
What is measured: how many of the pre-training's images of these classes that part holds, of as many as one part could;
and how often it is the part that holds most. The difference of the two ways has a 95 % interval over the tasks.

    data-embed --data tiny_imagenet/train --supernet shipped --calibrate tiny_imagenet/train --out runs/store
    data-cluster --store runs/store --out runs/codes
    python benchmarks/clustering.py --store runs/store --codes runs/codes --held tiny_imagenet/val
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.features.embedder import read_embedder
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.batch import draw_batches
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.search.downstream import CroppedImages


def counts(parts: np.ndarray, classes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Images by part and class."""
    found = np.zeros(shape, int)
    np.add.at(found, (parts, classes), 1)
    return found


def purity(parts: np.ndarray, classes: np.ndarray) -> float:
    table = counts(parts, classes, (parts.max() + 1, classes.max() + 1))
    return table.max(axis=1).sum() / len(parts)


def held_features(codes: Codes, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Features and names of other images."""
    embedder = read_embedder(codes.folder / "network.safetensors", codes.header.store, torch.device("cpu"))
    own = embedder.preprocessing
    source = CroppedImages(open_images(folder), own["centre_crop"], InputFormat.from_json(own["input_format"]))
    features, names = [], []
    for batch in draw_batches(source, None, 64, 0):
        features.append(embedder(batch.images).astype(float))
        names += batch.names
    return np.concatenate(features), names


def print_parts(codes: Codes, store: EmbeddingStore, classes: np.ndarray) -> None:
    children = codes.header.children
    assigned = np.concatenate([codes.assign(block.features.astype(float)) for block in store])
    print("| parts | images in each | similarity | of random | purity | of random | own |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for level in range(codes.header.levels):
        parts = leaf_numbers(codes.digits[:, : level + 1], children)
        shuffled = np.random.default_rng(0).permutation(parts)
        own = (assigned[:, : level + 1] == codes.digits[:, : level + 1]).all(axis=1).mean()
        sizes = np.bincount(parts)
        print(
            f"| {len(sizes)} | {sizes.min():,} to {sizes.max():,} | {codes.header.cohesion[level]:.3f} | "
            f"{codes.header.random_cohesion[level]:.3f} | {purity(parts, classes):.1%} | "
            f"{purity(shuffled, classes):.1%} | {own:.1%} |"
        )


def print_routes(codes: Codes, classes: np.ndarray, held: np.ndarray, held_classes: np.ndarray, size: int) -> None:
    """The rows of tasks of so many classes."""
    children, tasks = codes.header.children, (classes.max() + 1) // size
    own, of_held = classes // size, held_classes // size
    digits = codes.assign(held)
    means = np.stack([held[of_held == task].mean(axis=0) for task in range(tasks)])
    for level, centroids in enumerate(codes.centroids):
        shape = (len(centroids), tasks)
        seen = counts(leaf_numbers(codes.digits[:, : level + 1], children)[own < tasks], own[own < tasks], shape)
        parts = leaf_numbers(digits[:, : level + 1], children)
        routes = counts(parts[of_held < tasks], of_held[of_held < tasks], shape).argmax(axis=0)
        by_images, by_mean = (
            seen[route, np.arange(tasks)] / seen.max(axis=0) for route in (routes, (centroids @ means.T).argmax(axis=0))
        )
        apart = by_images - by_mean
        print(
            f"| {size} | {tasks} | {len(centroids)} | {by_images.mean():.1%} | {(by_images == 1).mean():.1%} | "
            f"{by_mean.mean():.1%} | {(by_mean == 1).mean():.1%} | "
            f"{apart.mean():+.1%} ± {1.96 * apart.std(ddof=1) / np.sqrt(tasks):.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True, help="other images in folders of the same classes")
    parser.add_argument("--classes", nargs="+", type=int, default=[1, 2, 5, 10, 20], help="classes of a task")
    arguments = parser.parse_args()
    codes = Codes.read(arguments.codes)
    names, classes = np.unique([name.split("/")[0] for name in codes.names], return_inverse=True)
    held, held_names = held_features(codes, arguments.held)
    held_classes = np.searchsorted(names, [name.split("/")[0] for name in held_names])
    print(f"{len(classes)} images of {len(names)} classes; {len(held)} held images\n")
    print_parts(codes, EmbeddingStore(arguments.store), classes)
    print("\n| classes | tasks | parts | most images | the best | on the mean | the best | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in arguments.classes:
        print_routes(codes, classes, held, held_classes, size)


if __name__ == "__main__":
    main()
