"""Networks of one branch of a supernet, computed together under a batch-norm policy and in a precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import batch_statistics
from data_plugin.features.norm_statistics import NormStatistics, walk_traced
from data_plugin.features.prefix_tree import Stages, Visit, X, walk
from data_plugin.space.arch import Arch

NORM_POLICIES = ("batch", "recalibrated", "running")
"""What batch norms normalise with.

The statistics of the batch at hand; every network's own over some of the images, which costs one more walk; or the
supernet's running ones, which mix those of all its networks.
"""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""In what features may be computed; distances are always in float32 or wider."""


class Networks:
    """One branch, whose networks are walked over with a norm policy and in a precision.

    Args:
        network: the branch, in evaluation mode, on the device to compute on.
        last_stage: stages after this one, 0 to 3, are not computed.
        norm: one of :data:`NORM_POLICIES`.
        precision: of the features.
    """

    def __init__(
        self, network: DynamicResNet, last_stage: int, norm: str = "batch", precision: torch.dtype = torch.float32
    ) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self.last_stage = last_stage
        self.norm = norm
        self.precision = precision
        self.statistics = NormStatistics(network, last_stage)

    def calibrate(self, archs: Sequence[Arch], batches: Iterable[Tensor], visit: Visit = lambda *_: None) -> None:
        """Take the statistics that ``recalibrated`` normalises networks with; the other policies need none.

        Args:
            archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them.
            batches: images (N, 3, H, W); every batch counts the same.
            visit: sees the features of every walk.
        """
        if self.norm == "recalibrated":
            self.statistics.add(archs, (images.to(self.device) for images in batches), visit)

    def walk(self, archs: Sequence[Arch], images: Tensor, visit: Visit) -> None:
        """Compute every distinct stage output; see :func:`data_plugin.features.prefix_tree.walk`.

        Args:
            archs: the networks as :func:`data_plugin.features.prefix_tree.tree_order` sorts them.
            images: (N, 3, H, W).
            visit: called with stage, features, first and end.
        """
        # Faster on CPUs and in half precision on GPUs, and a map's columns then lie as the relation needs them.
        images = images.to(self.device, memory_format=torch.channels_last)
        if self.norm == "recalibrated":
            with self.statistics.walked() as stages:
                walk_traced(self._in_precision(stages), images, archs, self.last_stage, visit)
        elif self.norm == "batch":
            with batch_statistics(self.network):
                walk(self._in_precision(self.network), images, archs, self.last_stage, visit)
        else:
            walk(self._in_precision(self.network), images, archs, self.last_stage, visit)

    def _in_precision(self, stages: Stages[X]) -> Stages[X]:
        if self.precision == torch.float32:
            return stages
        return _Autocast(stages, self.device.type, self.precision)


@dataclass(frozen=True)
class _Autocast(Stages[X]):
    """Stages that compute in a lower precision where that is safe."""

    stages: Stages[X]
    device_type: str
    precision: torch.dtype

    def stem(self, x: X, width: int) -> X:
        with torch.autocast(self.device_type, self.precision):
            return self.stages.stem(x, width)

    def stage(self, index: int, x: X, width: int, depth: int, start: int = 0) -> X:
        with torch.autocast(self.device_type, self.precision):
            return self.stages.stage(index, x, width, depth, start)
