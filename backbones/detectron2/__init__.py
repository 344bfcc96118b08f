"""detectron2: importing this registers the networks and their config node, so that any detectron2 script can use them.

``MODEL.BACKBONE.NAME`` gets ``DATAResNet`` and its FPN builders, ``MODEL.ROI_HEADS.NAME`` gets ``DATARes5ROIHeads``,
every config gets a node ``MODEL.DATA_RESNET``, and ``MODEL.WEIGHTS`` takes a file in torchvision's names. LazyConfigs
take ``L(DATAResNet)(arch=...)`` as it is; :func:`lazy_with_data_resnet` puts it into one of detectron2's own.
"""

from detectron2.config.defaults import _C as _DEFAULTS

from data_plugin.backbones.detectron2.cityscapes import let_detectron2_find_it
from data_plugin.backbones.detectron2.config import (
    add_data_resnet_config,
    input_format,
    load_config,
    strides_and_dilations,
    taps,
    with_data_resnet,
    write_config,
)
from data_plugin.backbones.detectron2.finetune import Trainer, finetune
from data_plugin.backbones.detectron2.fpn import (
    build_data_resnet_fpn_backbone,
    build_retinanet_data_resnet_fpn_backbone,
)
from data_plugin.backbones.detectron2.images import image_batches
from data_plugin.backbones.detectron2.lazy_config import lazy_with_data_resnet
from data_plugin.backbones.detectron2.resnet import DATAResNet
from data_plugin.backbones.detectron2.roi_heads import DATARes5ROIHeads, Res5Stage

add_data_resnet_config(_DEFAULTS)
let_detectron2_find_it()

__all__ = [
    "DATARes5ROIHeads",
    "DATAResNet",
    "Res5Stage",
    "Trainer",
    "add_data_resnet_config",
    "build_data_resnet_fpn_backbone",
    "build_retinanet_data_resnet_fpn_backbone",
    "finetune",
    "image_batches",
    "input_format",
    "lazy_with_data_resnet",
    "load_config",
    "strides_and_dilations",
    "taps",
    "with_data_resnet",
    "write_config",
]
