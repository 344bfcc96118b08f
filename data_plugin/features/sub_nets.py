"""Pooled features of all sub-nets of a supernet with groups, each with batch-norm statistics of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from data_plugin.backbones.grouped import GroupedBatchNorm2d, Path
from data_plugin.backbones.routed_resnet import RoutedResNet
from data_plugin.features.norm_statistics import Statistics, averaged, buffers, kept_norms
from data_plugin.space.arch import STAGES, Arch
from data_plugin.utils.errors import UserError

Groups = tuple[int, ...]
"""The groups in the first stages, which decide what is computed there; none for the stem."""

Part = Callable[[], Tensor]


class CalibratedSubNets:
    """One network of every sub-net, with batch-norm statistics of given images.

    Sub-nets with the same groups in the first stages compute the same there. So they are walked as a tree over the
    stages, depth first, and every prefix is computed once: of 256 sub-nets the first stage 4 times. Nothing of the
    supernet changes, its mode and its statistics included.

    Args:
        supernet: the supernet.
        arch: the network.
        calibration: normalised images (N, 3, H, W), without labels, that the statistics are averaged over; every
            batch counts the same.

    Attributes:
        paths: the sub-nets, in their order.

    Raises:
        UserError: if the network does not fit inside the largest or there are no images.
    """

    def __init__(self, supernet: RoutedResNet, arch: Arch, calibration: Iterable[Tensor]) -> None:
        supernet.require_inside(arch)
        self.supernet = supernet
        self.arch = arch
        self.paths: list[Path] = list(itertools.product(range(supernet.groups), repeat=supernet.levels))
        self.device = next(supernet.parameters()).device
        self._statistics: dict[Groups, Statistics] = {}
        with torch.no_grad(), kept_norms(supernet) as norms:
            for norm in norms:
                norm.training, norm.momentum = True, 1.0
            for done, images in enumerate(calibration):
                self._walk(images.to(self.device), partial(self._average, done), lambda *_: None)
        if not self._statistics:
            raise UserError("batch-norm statistics need images; expected at least one batch to calibrate on")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """C5, averaged over its positions.

        Args:
            images: normalised images (N, 3, H, W).

        Returns:
            (paths, N, C) on the supernet's device, in the order of :attr:`paths`.
        """
        found: dict[Path, Tensor] = {}

        def visit(path: Path, maps: Tensor) -> None:
            found[path] = maps.mean(dim=(2, 3))

        with kept_norms(self.supernet) as norms:
            for norm in norms:
                norm.training = False
            self._walk(images.to(self.device), self._normalised, visit)
        return torch.stack([found[path] for path in self.paths])

    def _walk(
        self, images: Tensor, run: Callable[[Groups, Part], Tensor], visit: Callable[[Path, Tensor], None]
    ) -> None:
        """Run the stem and every stage of every prefix once; ``visit`` sees the last maps."""
        x = run((), lambda: self.supernet.stem(images, self.arch.stem))
        self._descend((), x, run, visit)

    def _descend(
        self,
        before: Groups,
        x: Tensor,
        run: Callable[[Groups, Part], Tensor],
        visit: Callable[[Path, Tensor], None],
    ) -> None:
        stage = len(before)
        for group in range(self.supernet.groups if STAGES - 1 - stage < self.supernet.levels else 1):
            groups = (*before, group)
            width, depth, path = self.arch.width[stage], self.arch.depth[stage], self._path(groups)
            y = run(groups, partial(self.supernet.stage, stage, x, width, depth, path))
            if stage == STAGES - 1:
                visit(path, y)
            else:
                self._descend(groups, y, run, visit)

    def _path(self, groups: Groups) -> Path:
        """The first sub-net of a prefix: paths begin with the last stage."""
        every = (*groups, *[0] * (STAGES - len(groups)))
        return every[::-1][: self.supernet.levels]

    def _average(self, done: int, groups: Groups, part: Part) -> Tensor:
        """Run a part with batch statistics, and take them into the means over ``done`` earlier batches."""
        result = part()
        averaged(self._statistics, groups, self._running(groups), done)
        return result

    def _normalised(self, groups: Groups, part: Part) -> Tensor:
        """Run a part with the statistics of its prefix."""
        for own, values in zip(self._running(groups), self._statistics[groups], strict=True):
            for buffer, value in zip(own, values, strict=True):
                buffer.copy_(value)
        return part()

    def _running(self, groups: Groups) -> Statistics:
        """Running mean and variance of every batch norm of a part, as far as its network uses them; not copies."""
        if not groups:
            return [_first(buffers(self.supernet.bn1), 0, self.arch.stem)]
        stage, path = len(groups) - 1, self._path(groups)
        norms = (
            norm
            for block in self.supernet.blocks(stage)[: self.arch.depth[stage]]
            for norm in block.modules()
            if isinstance(norm, GroupedBatchNorm2d)
        )
        return [_first(buffers(norm.norm), norm.start(path), norm.channels.width) for norm in norms]


def _first(pair: tuple[Tensor, Tensor], start: int, count: int) -> tuple[Tensor, Tensor]:
    mean, var = pair
    return mean[start : start + count], var[start : start + count]
