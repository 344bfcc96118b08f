"""detectron2: importing this registers the networks and their config node, so that any detectron2 script can use them.

``MODEL.BACKBONE.NAME`` gets ``DATAResNet`` and its FPN builders, ``MODEL.ROI_HEADS.NAME`` gets ``DATARes5ROIHeads``,
and every config gets a node ``MODEL.DATA_RESNET``. ``MODEL.WEIGHTS`` takes a file in torchvision's names, given as
detectron2 wants such files: ``backbone.pth?matching_heuristics=True``. LazyConfigs take ``L(DATAResNet)(arch=...)`` as
it is; :func:`lazy_with_data_resnet` puts it into one of detectron2's own.
"""

from detectron2.config.defaults import _C as _DEFAULTS

from data_plugin.backbones.detectron2.cityscapes import let_detectron2_find_it
from data_plugin.backbones.detectron2.config import Detectron2Config
from data_plugin.backbones.detectron2.config_node import add_data_resnet_config
from data_plugin.backbones.detectron2.finetune import Trainer
from data_plugin.backbones.detectron2.fpn import (
    build_data_resnet_fpn_backbone,
    build_retinanet_data_resnet_fpn_backbone,
)
from data_plugin.backbones.detectron2.lazy_config import lazy_with_data_resnet
from data_plugin.backbones.detectron2.resnet import DATAResNet
from data_plugin.backbones.detectron2.roi_heads import DATARes5ROIHeads, Res5Stage
from data_plugin.backbones.detectron2.swap import with_data_resnet

add_data_resnet_config(_DEFAULTS)
let_detectron2_find_it()

__all__ = [
    "DATARes5ROIHeads",
    "DATAResNet",
    "Detectron2Config",
    "Res5Stage",
    "Trainer",
    "add_data_resnet_config",
    "build_data_resnet_fpn_backbone",
    "build_retinanet_data_resnet_fpn_backbone",
    "lazy_with_data_resnet",
    "with_data_resnet",
]
