"""The device that a config's model runs on."""

from __future__ import annotations

import warnings

import torch
from detectron2.config import CfgNode


def on_available_device(config: CfgNode) -> CfgNode:
    """A copy of a config that may be changed, on the CPU (with a warning) where its GPU is not there."""
    cfg = config.clone()
    cfg.defrost()
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        warnings.warn(
            f"there is no CUDA device here: the model runs on the CPU, not on {cfg.MODEL.DEVICE}", stacklevel=3
        )
        cfg.MODEL.DEVICE = "cpu"
    return cfg
