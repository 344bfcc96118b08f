"""Stage 4 of a searched network as the RoI head of a C4 detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from data_plugin.backbones.bottleneck import Norm, initialise, make_stage
from data_plugin.backbones.detectron2.config import architecture, require_plain_resnet
from data_plugin.backbones.detectron2.resnet import norm_from
from data_plugin.backbones.detectron2.weights import TorchvisionNamed
from data_plugin.space.arch import Arch


class Res5Stage(nn.Sequential, TorchvisionNamed):
    """Stage 4 as it runs on every region, (N, C4, H, W) to (N, C5, H / 2, W / 2).

    Its weights come from ``layer4`` of a backbone file. The extra norm is that of MoCo's C4 recipe (He et al., 2020,
    appendix: a newly initialised batch norm after res5); no pre-training gives its weights.

    Args:
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads.
        norm: a name that detectron2's ``get_norm`` knows, or what makes a norm layer for a number of channels.
        extra_norm: add a norm after the stage.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        arch: Arch | str | Mapping[str, Any],
        norm: str | Norm = "BN",
        extra_norm: bool = False,
        with_cp: bool = False,
    ) -> None:
        self_arch = Arch.parse(arch)
        make_norm = norm_from(norm)
        stage = make_stage(
            self_arch.out_channels[2], self_arch.width[3], self_arch.depth[3], stride=2, norm=make_norm, with_cp=with_cp
        )
        super().__init__(*stage)
        self.arch = self_arch
        self.out_channels = self_arch.out_channels[3]
        if extra_norm:
            self.add_module("norm", make_norm(self.out_channels))
        initialise(self)

    def file_name(self, name: str) -> str | None:
        """Blocks are those of ``layer4``; the extra norm is in no file."""
        return None if name.startswith("norm.") else f"layer4.{name}"


@ROI_HEADS_REGISTRY.register()
class DATARes5ROIHeads(Res5ROIHeads):
    """detectron2's ``Res5ROIHeads`` with stage 4 of ``MODEL.DATA_RESNET.ARCH`` as its res5."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        require_plain_resnet(cfg)
        node = cfg.MODEL.DATA_RESNET
        stage = Res5Stage(architecture(cfg), cfg.MODEL.RESNETS.NORM, node.RES5_EXTRA_NORM, node.WITH_CP)
        return stage, stage.out_channels
