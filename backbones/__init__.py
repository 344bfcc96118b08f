"""The networks: ``DynamicResNet`` (the supernet), ``RoutedResNet`` (many that share most of their weights),
``DATAResNet`` (one network of it) and an adapter per framework.

The adapters (``data_plugin.backbones.detectron2``, ``.mmdet`` and ``.mmseg``, and ``.openmmlab``, which the last two
share) import their framework and are imported only by name.
"""

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.extract import extract
from data_plugin.backbones.routed_resnet import RoutedResNet

__all__ = ["DATAResNet", "DynamicResNet", "RoutedResNet", "extract"]
