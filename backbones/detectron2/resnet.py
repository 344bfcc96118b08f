"""``DATAResNet`` as a detectron2 backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from data_plugin.backbones import data_resnet
from data_plugin.backbones.bottleneck import Norm
from data_plugin.backbones.detectron2.config_node import architecture, require_plain_resnet
from data_plugin.backbones.detectron2.own_classes import register_classes
from data_plugin.backbones.detectron2.weights import LoadedWhole
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError

FEATURES = ("res2", "res3", "res4", "res5")
"""detectron2's names of the feature maps of stages 1 to 4."""


@BACKBONE_REGISTRY.register()
class DATAResNet(data_resnet.DATAResNet, LoadedWhole, Backbone):
    """:class:`data_plugin.backbones.DATAResNet` with the options of detectron2's ResNet.

    Its parameters keep torchvision's names. Stages behind the last of ``out_features`` are not built.

    Args:
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads.
        out_features: the feature maps to return, some of ``res2`` to ``res5``.
        freeze_at: 0 freezes nothing, 1 the stem, n the stem and stages 1 to n - 1. Frozen batch norms become
            ``FrozenBatchNorm2d``.
        norm: a name that detectron2's ``get_norm`` knows, or what makes a norm layer for a number of channels.
        res5_dilation: 1, or 2 for a stage 4 that keeps stride 16 (``MODEL.RESNETS.RES5_DILATION``).
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        in_channels: channels of the images.

    Raises:
        UserError: if an option is out of its range, or the config asks for a ResNet that is not a plain one.
    """

    @configurable
    def __init__(
        self,
        arch: Arch | str | Mapping[str, Any],
        out_features: Sequence[str] = FEATURES,
        freeze_at: int = 0,
        norm: str | Norm = "BN",
        res5_dilation: int = 1,
        with_cp: bool = False,
        in_channels: int = 3,
    ) -> None:
        unknown = [name for name in out_features if name not in FEATURES]
        if unknown or not out_features:
            raise UserError(f"out_features is {list(out_features)}; expected some of {', '.join(FEATURES)}")
        if res5_dilation not in (1, 2):
            raise UserError(f"res5_dilation is {res5_dilation}; expected 1 or 2")
        num_stages = 1 + max(FEATURES.index(name) for name in out_features)
        super().__init__(
            arch,
            out_indices=sorted({FEATURES.index(name) for name in out_features}),
            num_stages=num_stages,
            strides=(1, 2, 2, 2 // res5_dilation),
            dilations=(1, 1, 1, res5_dilation),
            frozen_stages=min(max(freeze_at, 0) - 1, num_stages),
            norm=norm_from(norm),
            with_cp=with_cp,
            in_channels=in_channels,
        )
        if freeze_at >= 1:
            self.bn1 = FrozenBatchNorm2d.convert_frozen_batchnorm(self.bn1)
        for stage in range(1, self.frozen_stages + 1):
            FrozenBatchNorm2d.convert_frozen_batchnorm(self.get_submodule(f"layer{stage}"))
        self._out_features = [FEATURES[index] for index in self.out_indices]
        self._out_feature_channels = dict(zip(FEATURES, self.arch.out_channels, strict=True))
        self._out_feature_strides = dict(zip(FEATURES, (4, 8, 16, 32 // res5_dilation), strict=True))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments that a config describes; see :func:`add_data_resnet_config` for the entries that it reads.

        Data sets in detectron2's catalogs get the config's classes, see :func:`register_classes`.
        """
        require_plain_resnet(cfg)
        # The one place that a script which knows detectron2 alone brings its config to, before it reads data.
        register_classes(cfg)
        return {
            "arch": architecture(cfg),
            "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "norm": cfg.MODEL.RESNETS.NORM,
            "res5_dilation": cfg.MODEL.RESNETS.RES5_DILATION,
            "with_cp": cfg.MODEL.DATA_RESNET.WITH_CP,
            "in_channels": input_shape.channels,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map images (N, 3, H, W) to the feature maps by name."""
        maps = self.feature_maps(x)
        return {name: maps[position] for position, name in enumerate(self._out_features)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature map that the network returns."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def norm_from(norm: str | Norm) -> Norm:
    """What makes the norm layers that a name of detectron2's ``get_norm`` stands for.

    Raises:
        UserError: if the name is unknown or empty (here, or when a layer is made) or does not allow the channels.
    """
    if not isinstance(norm, str):
        return norm

    def make(channels: int) -> nn.Module:
        try:
            layer = get_norm(norm, channels)
        except KeyError:
            layer = None
        except ValueError as error:
            raise UserError(
                f"the norm {norm} cannot take {channels} channels ({error}); choose another norm"
            ) from error
        if layer is None:
            raise UserError(
                f"the norm is {norm!r}; expected one that detectron2 has, such as BN, SyncBN, FrozenBN or GN"
            )
        return layer

    return make
