"""Stage 4 of a searched network as the RoI head of a C4 detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine.model import BaseModule
from torch import Tensor

from data_plugin.backbones.bottleneck import initialise, make_stage
from data_plugin.backbones.freezing import freeze_norm_statistics
from data_plugin.backbones.openmmlab.resnet import (
    BATCH_NORM,
    SCRIPT_LEAVES_OUT,
    load_pretrained,
    norm_from,
    pretrained_file,
    refuse_options,
)
from data_plugin.space.arch import Arch


class DATAResLayer(BaseModule):
    """Stage 4 as a ``shared_head``, with the options of MMDetection's ``ResLayer``.

    Its weights are named ``layer4.*`` as in the whole network. The extra norm is that of MoCo's C4 recipe
    (``Res5ROIHeadsExtraNorm`` in its detection code); no pre-training gives its weights.

    Args:
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads.
        stride: stride of the stage.
        dilation: dilation of its 3x3 convolutions.
        norm_cfg: the norm layer, such as ``dict(type="SyncBN", requires_grad=True)``.
        norm_eval: keep batch-norm statistics fixed in training.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        extra_norm: add a norm after the stage.
        init_cfg: ``dict(type="Pretrained", checkpoint=FILE)`` loads ``layer4.*`` of a file in torchvision's names
            strictly; anything else is left to the framework; None keeps He's initialisation.
        unsupported: the options of :data:`~data_plugin.backbones.openmmlab.resnet.NEUTRAL`, at values that change
            nothing.

    Raises:
        UserError: if an option cannot be honoured, or (in ``init_weights``) the file does not hold these weights.
    """

    __jit_unused_properties__: ClassVar = SCRIPT_LEAVES_OUT

    def __init__(
        self,
        arch: Arch | str | Mapping[str, Any],
        stride: int = 2,
        dilation: int = 1,
        norm_cfg: Mapping[str, Any] = BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        extra_norm: bool = False,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **unsupported: Any,
    ) -> None:
        refuse_options("DATAResLayer", unsupported)
        super().__init__(init_cfg)
        self.arch = Arch.parse(arch)
        self.norm_eval = norm_eval
        norm = norm_from(norm_cfg)
        self.layer4 = make_stage(
            self.arch.out_channels[2], self.arch.width[3], self.arch.depth[3], stride, dilation, norm, with_cp
        )
        self.norm = norm(self.arch.out_channels[3]) if extra_norm else None
        initialise(self)

    def init_weights(self) -> None:
        """Load ``layer4.*`` of the file that ``init_cfg`` names; whatever else the file holds is left alone.

        Raises:
            UserError: if the file lacks one of the stage's weights, or holds it in another shape.
        """
        path = pretrained_file(self.init_cfg)
        if path is None:
            super().init_weights()
            return
        load_pretrained(self, path, f"stage 4 of {self.arch}", lambda part: part == "layer4")
        self.is_init = True

    def forward(self, x: Tensor) -> Tensor:
        """Map RoI features (N, C4, H, W) to (N, C5, H / stride, W / stride)."""
        x = self.layer4(x)
        return x if self.norm is None else self.norm(x)

    def train(self, mode: bool = True) -> DATAResLayer:
        """Set training or evaluation mode; with ``norm_eval`` batch norms stay in evaluation."""
        super().train(mode)
        if mode and self.norm_eval:
            freeze_norm_statistics(self)
        return self
