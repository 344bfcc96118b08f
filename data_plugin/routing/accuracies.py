"""How well every sub-net tells labelled images apart, and how sure it is which one does best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from data_plugin.evaluation.images import LabelledImages
from data_plugin.evaluation.knn import require_neighbours
from data_plugin.features.pooled import CalibratedNetworks
from data_plugin.features.sub_nets import CalibratedSubNets
from data_plugin.images.crops import centre_crop
from data_plugin.images.labelled import labelled_folder
from data_plugin.routing.votes import RESAMPLES
from data_plugin.space.arch import Arch
from data_plugin.supernet.checkpoint import RoutedSupernet, Supernet
from data_plugin.utils.progress import progress_over

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Images that vote on the class of one, and what their similarities are divided by."""

BATCH, CALIBRATED_ON = 64, 4
"""Images in a batch, and batches that batch-norm statistics are taken on at the most."""


@dataclass(frozen=True)
class Accuracies:
    """Which images each sub-net classifies right by those that are nearest to them.

    Args:
        right: (sub-nets, N), in the order of the paths.
        paths: the sub-nets.
        unified: (N,), of a network without sub-nets on the same images; None without one.
        seed: of the resamples.
    """

    right: np.ndarray
    paths: Sequence[tuple[int, ...]]
    unified: np.ndarray | None = None
    seed: int = 0

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.right.shape[1]

    @property
    def by_sub_net(self) -> np.ndarray:
        """The accuracy of every sub-net."""
        return self.right.mean(axis=1)

    @property
    def best(self) -> tuple[int, ...]:
        """The sub-net that is right most often; of several the first."""
        return self.paths[int(self.by_sub_net.argmax())]

    def of(self, path: Sequence[int]) -> float:
        """The accuracy of a sub-net."""
        return float(self.by_sub_net[self.paths.index(tuple(path))])

    @cached_property
    def confidence(self) -> float:
        """In which part of the resamples of the images the best sub-net is right more often than any other."""
        weights = np.random.default_rng(self.seed).multinomial(
            self.images, np.full(self.images, 1 / self.images), RESAMPLES
        )
        drawn = weights @ self.right.T
        number = self.paths.index(self.best)
        return float((drawn[:, number] > np.delete(drawn, number, axis=1).max(axis=1)).mean())

    @cached_property
    def held(self) -> np.ndarray:
        """Whether each image is classified right by the sub-net that is the best on the other half of the images, (N,).

        The best of many on the same images that they are compared on is flattered by these.
        """
        half = np.arange(self.images) % 2 == 0
        right = np.empty(self.images, bool)
        for part in (half, ~half):
            right[part] = self.right[self.right[:, ~part].mean(axis=1).argmax(), part]
        return right

    def ahead(self, path: Sequence[int]) -> tuple[float, float]:
        """By how much a sub-net is more accurate than the network without sub-nets, and the standard error of that.

        The best one counts as its choice by the other half of the images does, see :attr:`held`.
        """
        assert self.unified is not None
        right = self.held if tuple(path) == self.best else self.right[self.paths.index(tuple(path))]
        apart = right.astype(float) - self.unified
        return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "images": self.images,
            "best": list(self.best),
            "confidence": self.confidence,
            "held": float(self.held.mean()),
            "unified": None if self.unified is None else float(self.unified.mean()),
            "by_sub_net": self.by_sub_net.tolist(),
        }


def accuracies(
    supernet: RoutedSupernet,
    arch: Arch,
    folder: Path,
    image_size: int,
    *,
    unified: Supernet | None = None,
    count: int | None = None,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    device: torch.device,
) -> Accuracies:
    """Classify each labelled image by the others, with every sub-net; what sub-nets share is computed once.

    Args:
        supernet: the supernet.
        arch: the network of every sub-net.
        folder: labelled images, a sub-folder a class.
        image_size: height and width of a network's input in pixels.
        unified: a supernet without sub-nets, to be measured beside them.
        count: images that are drawn; None takes all.
        neighbours: how many of the nearest images vote.
        seed: of the draw and of resamples.
        device: where to compute.

    Raises:
        UserError: if there are no such images, one cannot be read, there are fewer than neighbours, or the network does
            not fit inside the supernet without sub-nets.
    """
    images = labelled_folder(folder)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(images))[:count]).tolist()
    require_neighbours(neighbours, len(drawn) - 1)
    whole = Subset(LabelledImages(images, centre_crop(image_size, supernet.info.input_format)), drawn)
    # Apart from the order of classes, in which a batch would be of few.
    mixed = Subset(whole, np.random.default_rng(seed).permutation(len(drawn)).tolist())
    query = supernet.query.to(device)
    sub_nets = CalibratedSubNets(query, arch, _calibration(mixed))
    beside = None if unified is None else CalibratedNetworks(unified.query.to(device), [arch], _calibration(mixed))
    features, features_beside, labels = [], [], []
    with progress_over(len(drawn), "images in all sub-nets") as advance:
        for pixels, classes in DataLoader(whole, batch_size=BATCH):
            features.append(sub_nets.features(pixels).half().cpu())
            if beside is not None:
                features_beside.append(beside.features(pixels)[arch].cpu())
            labels.append(classes)
            advance(len(classes))
    every, classes = torch.cat(features, dim=1), torch.cat(labels)
    right = torch.stack([_right(each.float(), classes, neighbours) for each in every]).numpy()
    right_beside = None if beside is None else _right(torch.cat(features_beside), classes, neighbours).numpy()
    return Accuracies(right, sub_nets.paths, right_beside, seed)


def _calibration(images: Subset) -> Iterator[Tensor]:
    """Whole batches, or all images where they are fewer than one."""
    size = min(BATCH, len(images))
    loader = DataLoader(images, batch_size=size, drop_last=True)
    return (pixels for (pixels, _), _ in zip(loader, range(CALIBRATED_ON), strict=False))


def _right(features: Tensor, labels: Tensor, neighbours: int) -> Tensor:
    """Which images (N,) the votes of their nearest others, weighted as in Wu et al., 2018, give their own class."""
    unit = F.normalize(features, dim=1)
    similarities = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest, voters = similarities.topk(neighbours, dim=1)
    votes = torch.zeros(len(labels), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[voters], (nearest / TEMPERATURE).exp())
    return votes.argmax(dim=1) == labels
