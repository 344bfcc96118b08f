"""Pooled features of several networks of a supernet, each with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.features.norm_statistics import NormStatistics, walk_traced
from data_plugin.features.prefix_tree import tree_order
from data_plugin.space.arch import STAGES, Arch
from data_plugin.utils.errors import UserError


class CalibratedNetworks:
    """Networks of a supernet with batch-norm statistics of given images (DATA, section 4.2).

    Their common prefixes are computed once. Nothing of the supernet changes, its mode and its statistics included, so
    this may be done in the middle of a training.

    Args:
        supernet: the supernet.
        archs: networks inside its largest; the same one twice counts once.
        calibration: normalised images (N, 3, H, W), without labels, that the statistics are averaged over; every
            batch counts the same.

    Raises:
        UserError: if a network does not fit inside the largest or there are no images.
    """

    def __init__(self, supernet: DynamicResNet, archs: Sequence[Arch], calibration: Iterable[Tensor]) -> None:
        largest = supernet.space.largest
        for arch in archs:
            if not arch.fits_inside(largest):
                raise UserError(f"{arch} does not fit inside this supernet, whose largest network is {largest}")
        self.archs = tree_order(archs)
        self.device = next(supernet.parameters()).device
        self._statistics = NormStatistics(supernet)
        with torch.no_grad():
            self._statistics.add(self.archs, (images.to(self.device) for images in calibration))
        if not self._statistics.by_place:
            raise UserError("batch-norm statistics need images; expected at least one batch to calibrate on")

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[Arch, Tensor]:
        """C5, averaged over its positions.

        Args:
            images: normalised images (N, 3, H, W).

        Returns:
            Per network (N, C) on the supernet's device, C being its :attr:`Arch.out_channels` of stage 4.
        """
        found: dict[Arch, Tensor] = {}

        def visit(stage: int, maps: Tensor, first: int, end: int) -> None:
            if stage == STAGES - 1:
                found.update(dict.fromkeys(self.archs[first:end], maps.mean(dim=(2, 3))))

        with self._statistics.walked() as stages:
            walk_traced(stages, images.to(self.device), self.archs, STAGES - 1, visit)
        return found


def labelled_features(
    networks: CalibratedNetworks, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[dict[Arch, Tensor], Tensor]:
    """Features and labels of a whole data set, on the CPU.

    Args:
        networks: the networks.
        batches: normalised images (N, 3, H, W) with labels (N,).

    Returns:
        Per network the features of all images (M, C), and their labels (M,).
    """
    features: dict[Arch, list[Tensor]] = {arch: [] for arch in networks.archs}
    labels = []
    for images, batch_labels in batches:
        for arch, found in networks.features(images).items():
            features[arch].append(found.float().cpu())
        labels.append(batch_labels)
    return {arch: torch.cat(parts) for arch, parts in features.items()}, torch.cat(labels)
