"""A whole embedding: from images of any source to a store of their features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_plugin.features.embedder import Embedder, open_embedder
from data_plugin.features.store import NETWORK, EmbeddingStore, StoreHeader, make_store, write_shard
from data_plugin.images.crops import Transform
from data_plugin.images.image_files import Images
from data_plugin.images.open import open_images
from data_plugin.utils.errors import UserError
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, pick_device, rank, rank_count
from data_plugin.utils.workers import spare_cores

SHARD_SIZE = 2_048
"""Images in a shard: what a killed process has to do again at the most, and what is in memory at once."""


def embed_images(
    images: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    supernet: str | os.PathLike[str] | None = None,
    backbone: str | os.PathLike[str] | None = None,
    path: Sequence[int] | None = None,
    arch: str = "largest",
    tap: str = "C5",
    image_size: int | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    shard_size: int = SHARD_SIZE,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> EmbeddingStore:
    """Compute the features of images, in all processes that torchrun or SLURM started, each a part of the shards.

    A store that was interrupted and resumed has the same bytes as one that never was, on the same kind of device.

    Args:
        images: the images, see :func:`~data_plugin.images.open.open_images`.
        out: the folder of the store.
        supernet: a supernet's file, or "shipped" for the one that comes with the package; either this or ``backbone``.
        backbone: one network's weights: a winner's folder, or a file of a ResNet of bottlenecks. Its images are
            normalised with ImageNet's mean and standard deviation.
        path: which sub-net of a supernet with groups, a group for each level.
        arch: which network of the supernet, see :func:`~data_plugin.supernet.named_networks.named_networks`.
        tap: which feature map is averaged over its positions, C2 to C5.
        image_size: height and width of the centre crop, the shorter side being resized to 256/224 of it before; None
            takes the size of the supernet's pre-training, and 224 for a backbone.
        calibrate: images that the network's batch-norm statistics are estimated on, without labels; without it those in
            the file are taken.
        batch_size: images that pass through the network together.
        shard_size: images in a shard.
        seed: of which images are drawn to calibrate on.
        workers: processes that read images, for each process here; None takes the spare cores.
        device: see :func:`~data_plugin.utils.ranks.pick_device`.
        resume: go on with an unfinished store in ``out``.
        overwrite: replace a store in ``out``.

    Raises:
        UserError: if there are no images or none can be read, the network cannot be read or gives features that are
            not finite, or ``out`` holds something else.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    folder, workers = Path(out), spare_cores() if workers is None else workers
    with joined_ranks():
        source = open_images(Path(images))
        embedder = open_embedder(
            supernet,
            backbone,
            path=path,
            arch=arch,
            tap=tap,
            image_size=image_size,
            calibrate=None if calibrate is None else Path(calibrate),
            seed=seed,
            device=pick_device(device),
            workers=workers,
        )
        header = StoreHeader(
            embedder.description,
            embedder.preprocessing,
            {
                "path": os.path.abspath(images),
                "root": os.path.abspath(source.root),
                "images": len(source),
                "fingerprint": source.fingerprint(),
            },
            embedder.dim,
            shard_size,
        )
        # Before anything is computed, so that a folder that cannot be taken costs nothing.
        missing = from_first(make_store(folder, header, resume=resume, overwrite=overwrite) if rank() == 0 else [])
        if rank() == 0:
            embedder.save(folder / NETWORK)
        _write_shards(folder, header, missing, source, embedder, batch_size, workers)
        from_all(None)  # all have written
        store = EmbeddingStore(folder)
    if not store.images:
        raise UserError(f"none of the {len(source)} images of {images} can be read; expected whole image files")
    return store


def _write_shards(
    folder: Path,
    header: StoreHeader,
    missing: Sequence[int],
    source: Images,
    embedder: Embedder,
    batch_size: int,
    workers: int,
) -> None:
    """Write this process's part of the missing shards, one after the other."""
    own = missing[rank() :: rank_count()]
    batches = {shard: _batches(header.part(shard), batch_size) for shard in own}
    every: Any = [batch for shard in own for batch in batches[shard]]
    loader = DataLoader(
        _Prepared(source, embedder.transform),
        batch_sampler=every,
        num_workers=workers if own else 0,
        collate_fn=_together,
    )
    prepared = iter(loader)
    with progress_over(sum(len(header.part(shard)) for shard in own), "images") as advance:
        for shard in own:
            found = [np.empty((0, header.dim), np.float16)]
            indices: list[int] = []
            pixels: list[str] = []
            for wanted in batches[shard]:
                batch = next(prepared)
                if batch.images is not None:
                    features = embedder(batch.images)
                    _require_finite(features, batch.indices, source)
                    found.append(features)
                indices += batch.indices
                pixels += batch.pixels
                advance(len(wanted))
            readable = set(indices)
            unreadable = [source.names[index] for index in header.part(shard) if index not in readable]
            names = [source.names[index] for index in indices]
            write_shard(folder, shard, np.concatenate(found), names, pixels, unreadable)


def _batches(part: range, size: int) -> list[range]:
    return [part[first : first + size] for first in range(0, len(part), size)]


class _Batch(NamedTuple):
    """The readable images of a batch.

    Args:
        indices: which images of the source they are.
        images: (N, 3, H, W); None if there is none.
        pixels: hashes of their pixels.
    """

    indices: list[int]
    images: Tensor | None
    pixels: list[str]


class _Prepared(Dataset[tuple[int, Tensor, str] | None]):
    def __init__(self, images: Images, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[int, Tensor, str] | None:
        image = self.images.read(index)
        return None if image is None else (index, self.transform(image), _hash(image))


def _together(samples: Sequence[tuple[int, Tensor, str] | None]) -> _Batch:
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return _Batch([], None, [])
    indices, images, pixels = zip(*readable, strict=True)
    return _Batch(list(indices), torch.stack(images), list(pixels))


def _hash(image: Image.Image) -> str:
    """The same for the same pixels, in whatever file they are."""
    digest = hashlib.blake2b(str(image.size).encode(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _require_finite(features: np.ndarray, indices: Sequence[int], source: Images) -> None:
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        name = source.names[indices[int(finite.argmin())]]
        raise UserError(
            f"the network's feature of {source.root / name} is not finite; give --calibrate with images like yours, or "
            "another network"
        )
