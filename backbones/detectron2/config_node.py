"""What is added to detectron2's configs, above all ``MODEL.DATA_RESNET``, and which network a config describes."""

from __future__ import annotations

from detectron2.config import CfgNode

from data_plugin.space.arch import RESNET_DEPTHS, Arch
from data_plugin.utils.errors import UserError


def add_data_resnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.DATA_RESNET`` and the entry ``DATASETS.CLASSES`` to a config.

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
    # The classes of VOC and COCO data sets, in order; empty leaves those of detectron2's catalogs and of COCO's files.
    cfg.DATASETS.CLASSES = ()


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
