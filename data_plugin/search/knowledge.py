"""Whether a supernet's teacher knows anything of the images that it shall guide a search on, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.extract import extract
from data_plugin.images.batch import ImageBatches
from data_plugin.supernet.random_start import random_start

IMAGES = 128
"""Images that are looked at, of those that were drawn for the search."""

FEWEST = 32
"""Images below which nothing can be said: the rank of so few features says how few they are."""

STARTS = 3
"""Random starts that the teacher is compared with."""

PIXELS = 224
"""Height and width at which the networks see an image."""

TOGETHER = 16
"""Images in a batch, whose statistics batch norms use."""

MARGIN = 1.5
"""How many times the directions of the best random start a teacher must have (docs/measurements/knowledge.md)."""


@dataclass(frozen=True)
class Knowledge:
    """In how many directions the teacher's features of images differ, beside the same network from random weights.

    It is the effective rank of the covariance of pooled C5: the exponential of the entropy of its eigenvalues (Roy and
    Vetterli, 2007; that it tells without labels which features are good: RankMe, Garrido et al., 2023).

    Args:
        images: how many images there were.
        teacher: the effective rank, at least 1.
        random: that of each random start.
    """

    images: int
    teacher: float
    random: tuple[float, ...]

    @property
    def suffices(self) -> bool:
        """Whether closeness to the teacher can be believed to be worth something."""
        return self.teacher > MARGIN * max(self.random)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"images": self.images, "teacher": self.teacher, "random": list(self.random)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Knowledge:
        """What :meth:`to_json` gave."""
        return cls(value["images"], value["teacher"], tuple(value["random"]))


def knowledge_of(
    key: DynamicResNet, batches: ImageBatches, seed: int = 0, progress: Callable[[int], None] = lambda images: None
) -> Knowledge | None:
    """What the largest network of the key branch knows of images; None where they are fewer than :data:`FEWEST`.

    Args:
        key: the key branch, on the device to compute on.
        batches: the images; the first :data:`IMAGES` of them are looked at.
        seed: of the random starts.
        progress: called with a number of images, times networks, when these are done.
    """
    if not passes(batches):
        return None
    device, largest = next(key.parameters()).device, key.space.largest
    images = torch.stack([_resized(image) for image in islice(_images(batches), IMAGES)])

    def rank(network: DATAResNet) -> float:
        return effective_rank(features(network.to(device), images, progress))

    random = (rank(random_start(largest, seed + start)) for start in range(STARTS))
    return Knowledge(len(images), rank(extract(key, largest)), tuple(random))


def passes(batches: ImageBatches) -> int:
    """Images times networks that :func:`knowledge_of` computes; 0 for too few images."""
    images = sum(map(len, batches.parts))
    return 0 if images < FEWEST else min(images, IMAGES) * (1 + STARTS)


def effective_rank(features: Tensor) -> float:
    """Effective rank of the covariance of features (N, C), between 1 and the smaller of N - 1 and C."""
    shares = torch.linalg.svdvals((features - features.mean(0)).double()).square()
    shares = shares / shares.sum()
    return float(torch.special.entr(shares).sum().exp())


def features(network: DATAResNet, images: Tensor, progress: Callable[[int], None] = lambda images: None) -> Tensor:
    """Pooled C5 (N, C) of images, normalised with the statistics of a few of them at a time.

    Args:
        network: the network, on the device to compute on; its running statistics change.
        images: (N, 3, H, W).
        progress: called with a number of images when these are done.
    """
    device = next(network.parameters()).device
    found = []
    network.train()
    with torch.inference_mode():
        for part in images.tensor_split(-(-len(images) // TOGETHER)):
            found.append(network(part.to(device))[-1].mean((2, 3)).float().cpu())
            progress(len(part))
    return torch.cat(found)


def _images(batches: ImageBatches) -> Iterator[Tensor]:
    """Every image without its padding."""
    for batch in batches:
        for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
            yield image[:, :height, :width]


def _resized(image: Tensor) -> Tensor:
    return F.interpolate(image[None], size=(PIXELS, PIXELS), mode="bilinear", antialias=True)[0]
