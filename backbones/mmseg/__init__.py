"""MMSegmentation adapter: importing it registers ``DATAResNet``.

In a config: ``custom_imports = dict(imports=["data_plugin.backbones.mmseg"])`` and
``backbone=dict(type="DATAResNet", arch="d3-2-17-3_w32-48-96-192-512", ...)``.
"""

from mmseg.registry import DATASETS, HOOKS, MODELS

from data_plugin.backbones.mmseg.datasets import OwnCityscapesDataset
from data_plugin.backbones.mmseg.resnet import MMSegResNet
from data_plugin.backbones.openmmlab.precise_bn import PreciseBNHook

__all__ = ["MMSegResNet", "OwnCityscapesDataset", "PreciseBNHook"]

MODELS.register_module(name="DATAResNet", module=MMSegResNet)
HOOKS.register_module(module=PreciseBNHook)
DATASETS.register_module(module=OwnCityscapesDataset)
