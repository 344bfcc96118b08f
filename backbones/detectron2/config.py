"""detectron2's configs: the node ``MODEL.DATA_RESNET``, and reading, understanding and writing them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from yaml import YAMLError

from data_plugin.backbones.detectron2.datasets import use_data_root
from data_plugin.frameworks.framework import config_path
from data_plugin.images.input_format import InputFormat
from data_plugin.search.taps import STAGE_TAPS, check_taps
from data_plugin.space.arch import RESNET_DEPTHS, Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

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


def add_data_resnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.DATA_RESNET`` to a config.

    What detectron2's ResNet and ours share stays where detectron2 has it: ``MODEL.BACKBONE.FREEZE_AT`` and
    ``MODEL.RESNETS.{OUT_FEATURES, NORM, RES5_DILATION}``. The stride is always in the 3x3 convolution, whatever
    ``MODEL.RESNETS.STRIDE_IN_1X1`` says.
    """
    node = cfg.MODEL.DATA_RESNET = CfgNode()
    # The architecture, as Arch.parse reads it; empty takes that of MODEL.RESNETS, such as ResNet-101 for DEPTH 101.
    node.ARCH = ""
    # A norm after stage 4 in the RoI head of C4 detectors, newly initialised.
    node.RES5_EXTRA_NORM = False
    # Recompute every block in the backward pass instead of keeping its activations.
    node.WITH_CP = False


def load_config(config: str, options: Sequence[str], data_root: Path | None) -> CfgNode:
    """Read a config and put ``DATAResNet`` in the place of its ResNet.

    See :meth:`data_plugin.frameworks.framework.Adapter.load_config`. Without ``data_root`` detectron2's own convention
    holds: the data sets are below ``DETECTRON2_DATASETS``.
    """
    if config.endswith(".py"):
        raise UserError(
            f"{config} is a LazyConfig, and the tools read detectron2's YAML configs; give one of those, or set the "
            "backbone in the LazyConfig yourself with data_plugin.backbones.detectron2.lazy_with_data_resnet"
        )
    path = config_path(config, "detectron2")
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError, AssertionError, AttributeError, TypeError, YAMLError, OSError) as error:
        raise UserError(f"{path} is not a config that detectron2 can read: {_in_one_line(error)}") from error
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"the option {option!r} has no value; expected KEY=VALUE such as SOLVER.MAX_ITER=100")
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, ValueError, AssertionError, AttributeError) as error:
            raise UserError(f"the option {option!r} does not fit a detectron2 config: {_in_one_line(error)}") from error
    cfg = with_data_resnet(cfg)
    if data_root is not None:
        use_data_root(cfg, data_root)
    return cfg


def input_format(config: CfgNode) -> InputFormat:
    """Channel order and normalisation of a config's model."""
    mean, std = config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD
    return InputFormat(config.INPUT.FORMAT, tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]


def taps(config: CfgNode) -> tuple[str, ...]:
    """The feature maps that a config's model reads: the FPN's, C5 where stage 4 is the RoI head, or the outputs."""
    model = config.MODEL
    if model.FPN.IN_FEATURES:
        features = model.FPN.IN_FEATURES
    elif _is_c4(config):
        features = ["res5"]
    else:
        features = model.RESNETS.OUT_FEATURES
    by_feature = {f"res{tap[1:]}": tap for tap in STAGE_TAPS}
    return check_taps([by_feature.get(feature, feature) for feature in features])


def strides_and_dilations(config: CfgNode) -> Mapping[str, Any]:
    """At which strides and dilations a config's model runs its backbone; ``RES5_DILATION`` is not for a RoI head."""
    res5_dilation = 1 if _is_c4(config) else config.MODEL.RESNETS.RES5_DILATION
    return {"strides": (1, 2, 2, 2 // res5_dilation), "dilations": (1, 1, 1, res5_dilation)}


def architecture(config: CfgNode) -> Arch:
    """The architecture that a config names: ``MODEL.DATA_RESNET.ARCH``, or else that of ``MODEL.RESNETS``.

    Raises:
        UserError: if it names none, or ``MODEL.RESNETS`` is not a ResNet of bottlenecks.
    """
    if config.MODEL.DATA_RESNET.ARCH:
        return Arch.parse(config.MODEL.DATA_RESNET.ARCH)
    resnets = config.MODEL.RESNETS
    width = resnets.WIDTH_PER_GROUP
    if resnets.DEPTH not in RESNET_DEPTHS:
        raise UserError(
            f"the config's MODEL.RESNETS.DEPTH is {resnets.DEPTH}, whose blocks are no bottlenecks; to start from "
            "bottlenecks set MODEL.RESNETS.DEPTH to 50, 101 or 152 and RES2_OUT_CHANNELS to 256"
        )
    if 4 * width != resnets.RES2_OUT_CHANNELS:
        raise UserError(
            f"the config's MODEL.RESNETS.RES2_OUT_CHANNELS is {resnets.RES2_OUT_CHANNELS} with WIDTH_PER_GROUP {width};"
            f" a DATAResNet's stage puts out 4 times its width, set {4 * width}"
        )
    widths = tuple(width * 2**stage for stage in range(4))
    return Arch(stem=resnets.STEM_OUT_CHANNELS, width=widths, depth=RESNET_DEPTHS[resnets.DEPTH])


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


def write_config(config: CfgNode, arch: Arch, weights: Path, path: Path) -> None:
    """Write a config that trains a network; see :meth:`data_plugin.frameworks.framework.Adapter.write_config`."""
    cfg = with_data_resnet(config)
    cfg.MODEL.DATA_RESNET.ARCH = str(arch)
    # detectron2 looks up a relative path from the working directory.
    cfg.MODEL.WEIGHTS = str(weights.absolute())
    text = (
        f"# {arch}. It trains with detectron2's tools/train_net.py, or any script of yours, after the line\n"
        f"#   import {__package__}\n"
        f"# with the data sets below $DETECTRON2_DATASETS.\n{cfg.dump()}"
    )
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def require_plain_resnet(cfg: CfgNode) -> None:
    """Check that a config asks for no ResNet that a plain one cannot stand for.

    Raises:
        UserError: if it has grouped or deformable convolutions.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.NUM_GROUPS != 1:
        raise UserError(
            f"the config's MODEL.RESNETS.NUM_GROUPS is {resnets.NUM_GROUPS}; a DATAResNet has no groups, set 1"
        )
    if any(resnets.DEFORM_ON_PER_STAGE):
        raise UserError(
            f"the config's MODEL.RESNETS.DEFORM_ON_PER_STAGE is {list(resnets.DEFORM_ON_PER_STAGE)}; "
            "a DATAResNet has no deformable convolutions, set all to False"
        )


def _is_c4(config: CfgNode) -> bool:
    """Whether stage 4 is the RoI head."""
    model = config.MODEL
    return model.META_ARCHITECTURE == "GeneralizedRCNN" and issubclass(
        ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), Res5ROIHeads
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
