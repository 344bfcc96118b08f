"""MMSegmentation adapter: importing it registers ``DATAResNet``; its functions are those of ``Adapter``.

In a config: ``custom_imports = dict(imports=["data_plugin.backbones.mmseg"])`` and
``backbone=dict(type="DATAResNet", arch="d3-2-17-3_w32-48-96-192-512", ...)``.
"""

from mmseg.registry import HOOKS, MODELS

from data_plugin.backbones.mmseg.config import load_config, strides_and_dilations, taps, write_config
from data_plugin.backbones.mmseg.images import image_batches
from data_plugin.backbones.mmseg.resnet import MMSegResNet
from data_plugin.backbones.mmseg.training import finetune
from data_plugin.backbones.openmmlab.config import input_format
from data_plugin.backbones.openmmlab.precise_bn import PreciseBNHook

__all__ = [
    "MMSegResNet",
    "PreciseBNHook",
    "finetune",
    "image_batches",
    "input_format",
    "load_config",
    "strides_and_dilations",
    "taps",
    "write_config",
]

MODELS.register_module(name="DATAResNet", module=MMSegResNet)
HOOKS.register_module(module=PreciseBNHook)
