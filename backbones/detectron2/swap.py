"""``DATAResNet`` in the place of a config's ResNet."""

from __future__ import annotations

import warnings
from typing import Any

from detectron2.config import CfgNode

from data_plugin.backbones.detectron2.config_node import architecture, require_plain_resnet
from data_plugin.utils.errors import UserError

BACKBONES = {
    "build_resnet_backbone": "DATAResNet",
    "build_resnet_fpn_backbone": "build_data_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_data_resnet_fpn_backbone",
}
"""detectron2's ResNet backbones and what takes their place."""

ROI_HEADS = {"Res5ROIHeads": "DATARes5ROIHeads"}
"""RoI heads that hold a stage of detectron2's ResNet, and what takes their place."""

NORMS = ("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""Norms of detectron2 that the batch norms of a supernet fit."""

FACEBOOKS_WEIGHTS = ("detectron2://", "catalog://")
"""How addresses of weights begin that are for detectron2's own networks."""


def with_data_resnet(config: CfgNode) -> CfgNode:
    """A copy of a config in which ``DATAResNet`` has taken the place of detectron2's ResNet.

    It has the ResNet's own architecture unless ``MODEL.DATA_RESNET.ARCH`` names one. What the two cannot share is said
    in a warning: a stride in the 1x1 convolutions moves into the 3x3, and weights of detectron2's own networks are left
    out.

    Raises:
        UserError: if the config's backbone is not a plain ResNet of bottlenecks with batch norm.
    """
    cfg = config.clone()
    cfg.defrost()
    require_plain_resnet(cfg)
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONES and name not in BACKBONES.values():
        raise UserError(
            f"the config's MODEL.BACKBONE.NAME is {name!r}; expected a ResNet: one of {', '.join(BACKBONES)}"
        )
    cfg.MODEL.DATA_RESNET.ARCH = str(architecture(cfg))
    cfg.MODEL.ROI_HEADS.NAME = ROI_HEADS.get(cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NAME)
    if name in BACKBONES:
        require_batch_norm("the config's MODEL.RESNETS.NORM", cfg.MODEL.RESNETS.NORM)
        left_out = cfg.MODEL.WEIGHTS if cfg.MODEL.WEIGHTS.startswith(FACEBOOKS_WEIGHTS) else ""
        warn_of_changes(cfg.MODEL.RESNETS.STRIDE_IN_1X1, left_out and f"MODEL.WEIGHTS {left_out}")
        cfg.MODEL.BACKBONE.NAME = BACKBONES[name]
        cfg.MODEL.WEIGHTS = "" if left_out else cfg.MODEL.WEIGHTS
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    return cfg


def require_batch_norm(what: str, norm: Any) -> None:
    """Check that the batch norms of a supernet fit the norm of a config's ResNet.

    Raises:
        UserError: if it is another kind of norm.
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise UserError(f"{what} is {norm!r}, but a supernet's weights are for batch norm; set BN, SyncBN or FrozenBN")


def warn_of_changes(stride_in_1x1: bool, left_out: str) -> None:
    """Warn of what ``DATAResNet`` and the ResNet whose place it takes do not share.

    Args:
        stride_in_1x1: the ResNet's stride is in its 1x1 convolutions.
        left_out: the config's entry with the weights of that ResNet, empty for none.
    """
    changes = []
    if stride_in_1x1:
        changes.append("its stride moves from the 1x1 convolutions into the 3x3")
    if left_out:
        changes.append(f"{left_out}, which is for that ResNet, is left out")
    if changes:
        warnings.warn(f"DATAResNet takes the place of the config's ResNet: {' and '.join(changes)}", stacklevel=3)
