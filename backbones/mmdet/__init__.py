"""MMDetection adapter: importing it registers ``DATAResNet`` and its C4 head.

In a config: ``custom_imports = dict(imports=["data_plugin.backbones.mmdet"])`` and
``backbone=dict(type="DATAResNet", arch="d3-2-17-3_w32-48-96-192-512", ...)``.
"""

from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS

from data_plugin.backbones.mmdet.own_coco import OwnCocoDataset, OwnCocoMetric, UnlabelledCocoDataset
from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.mmdet.voc import IncludeDifficult, OwnVOCDataset, UnlabelledVOCDataset
from data_plugin.backbones.openmmlab.precise_bn import PreciseBNHook
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet

__all__ = [
    "DATAResLayer",
    "IncludeDifficult",
    "OpenMMLabResNet",
    "OwnCocoDataset",
    "OwnCocoMetric",
    "OwnVOCDataset",
    "PreciseBNHook",
    "UnlabelledCocoDataset",
    "UnlabelledVOCDataset",
]

MODELS.register_module(name="DATAResNet", module=OpenMMLabResNet)
MODELS.register_module(module=DATAResLayer)
HOOKS.register_module(module=PreciseBNHook)
TRANSFORMS.register_module(module=IncludeDifficult)
DATASETS.register_module(module=OwnCocoDataset)
DATASETS.register_module(module=UnlabelledCocoDataset)
METRICS.register_module(module=OwnCocoMetric)
DATASETS.register_module(module=OwnVOCDataset)
DATASETS.register_module(module=UnlabelledVOCDataset)
