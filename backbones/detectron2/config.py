"""detectron2's configs: the node ``MODEL.DATA_RESNET``, and reading, understanding and writing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from yaml import YAMLError

from data_plugin.arch import Arch
from data_plugin.backbones.detectron2.datasets import use_data_root
from data_plugin.errors import UserError
from data_plugin.files import write_whole
from data_plugin.framework import config_path
from data_plugin.input_format import InputFormat
from data_plugin.taps import STAGE_TAPS, check_taps

BACKBONES = {
    "build_resnet_backbone": "DATAResNet",
    "build_resnet_fpn_backbone": "build_data_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_data_resnet_fpn_backbone",
}
"""detectron2's ResNet backbones and what takes their place."""

ROI_HEADS = {"Res5ROIHeads": "DATARes5ROIHeads"}
"""RoI heads that hold a stage of detectron2's ResNet, and what takes their place."""


def add_data_resnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.DATA_RESNET`` to a config.

    What detectron2's ResNet and ours share stays where detectron2 has it: ``MODEL.BACKBONE.FREEZE_AT`` and
    ``MODEL.RESNETS.{OUT_FEATURES, NORM, RES5_DILATION}``. The stride is always in the 3x3 convolution, whatever
    ``MODEL.RESNETS.STRIDE_IN_1X1`` says.
    """
    node = cfg.MODEL.DATA_RESNET = CfgNode()
    # The architecture, as Arch.parse reads it.
    node.ARCH = str(Arch.resnet50())
    # A norm after stage 4 in the RoI head of C4 detectors, newly initialised.
    node.RES5_EXTRA_NORM = False
    # Recompute every block in the backward pass instead of keeping its activations.
    node.WITH_CP = False


def load_config(config: str, options: Sequence[str], data_root: Path | None) -> CfgNode:
    """Read a config; see :meth:`data_plugin.framework.Adapter.load_config`.

    Without ``data_root`` detectron2's own convention holds: the data sets are below ``DETECTRON2_DATASETS``.
    """
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
    Arch.parse(cfg.MODEL.DATA_RESNET.ARCH)
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
    elif model.META_ARCHITECTURE == "GeneralizedRCNN" and issubclass(
        ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), Res5ROIHeads
    ):
        features = ["res5"]
    else:
        features = model.RESNETS.OUT_FEATURES
    by_feature = {f"res{tap[1:]}": tap for tap in STAGE_TAPS}
    return check_taps([by_feature.get(feature, feature) for feature in features])


def with_data_resnet(config: CfgNode) -> CfgNode:
    """A copy of a config in which ``DATAResNet`` has taken the place of detectron2's ResNet.

    Raises:
        UserError: if the config's backbone is not a plain ResNet.
    """
    cfg = config.clone()
    cfg.defrost()
    require_plain_resnet(cfg)
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONES and name not in BACKBONES.values():
        raise UserError(
            f"the config's MODEL.BACKBONE.NAME is {name!r}; expected a ResNet: one of {', '.join(BACKBONES)}"
        )
    cfg.MODEL.BACKBONE.NAME = BACKBONES.get(name, name)
    cfg.MODEL.ROI_HEADS.NAME = ROI_HEADS.get(cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NAME)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    return cfg


def write_config(config: CfgNode, arch: Arch, weights: Path, path: Path) -> None:
    """Write a config that trains a network; see :meth:`data_plugin.framework.Adapter.write_config`."""
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


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
