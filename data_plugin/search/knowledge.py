"""Whether a supernet's teacher knows anything of the images that it shall guide a search on, without labels."""

from __future__ import annotations

import math
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

FEWEST = 16
"""Images below which nothing can be said."""

STARTS = 3
"""Random starts that the teacher is compared with."""

PIXELS = 128
"""Height and width of a crop as the networks see it."""

AREA = (0.2, 0.6)
"""Least and greatest part of an image that a crop has."""

TOGETHER = 16
"""Crops in a batch, whose statistics batch norms use."""

LEAST = 0.2
"""Part of the way from random weights to no mistake that a teacher must have come (docs/measurements/knowledge.md)."""


@dataclass(frozen=True)
class Knowledge:
    """How well the teacher tells images apart, beside the same network from random weights.

    Of two crops of every image, the second is compared with the first crop, and so are the second crops of all other
    images; what counts is the part of these that are less alike, 1 for no mistake and 0.5 for a guess.

    Args:
        images: how many there were.
        teacher: the mean over the images.
        random: that of each random start.
    """

    images: int
    teacher: float
    random: tuple[float, ...]

    @property
    def learnt(self) -> float:
        """Part of the way from random weights to no mistake that the teacher has come; negative where it is behind."""
        start = sum(self.random) / len(self.random)
        return (self.teacher - start) / (1 - start) if start < 1 else 0.0

    @property
    def suffices(self) -> bool:
        """Whether closeness to the teacher can be believed to be worth something."""
        return self.learnt >= LEAST

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"images": self.images, "teacher": self.teacher, "random": list(self.random)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Knowledge:
        """What :meth:`to_json` gave."""
        return cls(value["images"], value["teacher"], tuple(value["random"]))


def knowledge_of(
    key: DynamicResNet, batches: ImageBatches, seed: int = 0, progress: Callable[[int], None] = lambda crops: None
) -> Knowledge | None:
    """What the largest network of the key branch knows of images; None where they are fewer than :data:`FEWEST`.

    Args:
        key: the key branch, on the device to compute on.
        batches: the images; the first :data:`IMAGES` of them are looked at.
        seed: of the crops and the random starts.
        progress: called with a number of crops, times networks, when these are done.
    """
    if sum(map(len, batches.parts)) < FEWEST:
        return None
    device = next(key.parameters()).device
    first, second = crops(batches, seed)

    def told_apart(network: DATAResNet) -> float:
        one, other = (features(network.to(device), each, progress) for each in (first, second))
        return apart(one, other).mean().item()

    teacher = told_apart(extract(key, key.space.largest))
    return Knowledge(
        len(first), teacher, tuple(told_apart(random_start(key.space.largest, seed + start)) for start in range(STARTS))
    )


def comparisons(batches: ImageBatches) -> int:
    """Crops that :func:`knowledge_of` passes through networks; 0 for too few images."""
    images = sum(map(len, batches.parts))
    return 0 if images < FEWEST else 2 * min(images, IMAGES) * (1 + STARTS)


def apart(first: Tensor, second: Tensor) -> Tensor:
    """For every image (N,), the part of the other images that are less like its first crop than its own second crop.

    Args:
        first: features (N, C) of the first crops.
        second: those of the second crops.
    """
    one, other = (F.normalize(each - each.mean(0), dim=1) for each in (first, second))
    alike = one @ other.T
    return (alike < alike.diagonal()[:, None]).sum(1) / (len(alike) - 1)


def crops(batches: ImageBatches, seed: int) -> tuple[Tensor, Tensor]:
    """Two crops (N, 3, H, W) of every image: other places and sizes, mirrored or not, in other colours, some in grey.

    Args:
        batches: images as the task's framework feeds them.
        seed: of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [(_crop(image, generator), _crop(image, generator)) for image in islice(_images(batches), IMAGES)]
    first, second = zip(*found, strict=True)
    return torch.stack(first), torch.stack(second)


def _images(batches: ImageBatches) -> Iterator[Tensor]:
    """Every image without its padding."""
    for batch in batches:
        for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
            yield image[:, :height, :width]


def _crop(image: Tensor, generator: torch.Generator) -> Tensor:
    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    side = drawn(*AREA, 1).sqrt().item()
    size = [max(1, int(length * side)) for length in image.shape[1:]]
    top, left = (int(drawn(0, whole - part + 1, 1)) for whole, part in zip(image.shape[1:], size, strict=True))
    part = image[None, :, top : top + size[0], left : left + size[1]]
    crop = F.interpolate(part, size=(PIXELS, PIXELS), mode="bilinear", antialias=True)[0]
    mirrored, in_grey = torch.rand(2, generator=generator).tolist()
    if mirrored < 0.5:
        crop = crop.flip(2)
    # Not every framework's pixels have a deviation of 1.
    crop = crop * drawn(0.6, 1.4, 3, 1, 1) + image.std() * drawn(-0.5, 0.5, 3, 1, 1)
    return crop.mean(0, keepdim=True).expand(3, -1, -1) if in_grey < 0.2 else crop


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
        for part in images.split(_part(len(images))):
            found.append(network(part.to(device))[-1].mean((2, 3)).float().cpu())
            progress(len(part))
    return torch.cat(found)


def _part(count: int) -> int:
    """Crops in a batch, so that all batches are about equal."""
    return math.ceil(count / math.ceil(count / TOGETHER))
