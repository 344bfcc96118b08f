"""Stage 4 of a searched network as the RoI head of a C4 detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import Tensor, nn

from data_plugin.backbones.bottleneck import Norm, initialise, make_stage
from data_plugin.backbones.detectron2.config_node import architecture, require_plain_resnet
from data_plugin.backbones.detectron2.resnet import norm_from
from data_plugin.backbones.detectron2.weights import LoadedWhole
from data_plugin.space.arch import Arch


class Res5Stage(LoadedWhole):
    """Stage 4 as it runs on every region.

    Its weights are named ``layer4.*`` as in the whole network. The extra norm is that of MoCo's C4 recipe (He et al.,
    2020, appendix: a newly initialised batch norm after res5); no pre-training gives its weights.

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
        super().__init__()
        self.arch = Arch.parse(arch)
        self.out_channels = self.arch.out_channels[3]
        make_norm = norm_from(norm)
        self.layer4 = make_stage(
            self.arch.out_channels[2], self.arch.width[3], self.arch.depth[3], stride=2, norm=make_norm, with_cp=with_cp
        )
        self.norm = make_norm(self.out_channels) if extra_norm else None
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map RoI features (N, C4, H, W) to (N, C5, H / 2, W / 2)."""
        x = self.layer4(x)
        return x if self.norm is None else self.norm(x)

    def file_entries(self) -> dict[str, Tensor]:
        """The weights of stage 4; no file has those of the extra norm."""
        return {name: value for name, value in super().file_entries().items() if name.startswith("layer4.")}


@ROI_HEADS_REGISTRY.register()
class DATARes5ROIHeads(Res5ROIHeads):
    """detectron2's ``Res5ROIHeads`` with stage 4 of ``MODEL.DATA_RESNET.ARCH`` as its res5."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        require_plain_resnet(cfg)
        node = cfg.MODEL.DATA_RESNET
        stage = Res5Stage(architecture(cfg), cfg.MODEL.RESNETS.NORM, node.RES5_EXTRA_NORM, node.WITH_CP)
        return stage, stage.out_channels
