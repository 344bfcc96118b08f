"""Reading MMDetection configs, what they say about the model, and writing one for a searched network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from data_plugin.backbones.mmdet.coco import place_coco
from data_plugin.backbones.mmdet.voc import check_lists, drop_absent_years, place
from data_plugin.backbones.openmmlab.config import (
    LOADERS,
    beside_config,
    merge_options,
    read_config,
    save_config,
)
from data_plugin.backbones.openmmlab.swap import detector, replace_resnet, set_arch, stages_read
from data_plugin.frameworks.framework import config_path
from data_plugin.search.taps import STAGE_TAPS
from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.cost import STRIDES

MODULE = "data_plugin.backbones.mmdet"
"""What a config must import for ``DATAResNet`` to be known."""


def load_config(config: str, options: Sequence[str], data_root: Path | None) -> Config:
    """Read a config and find its data.

    Args:
        config: a name under ``configs_det/mmdet/`` without its ending, a path, or a name of MMDetection's model zoo.
        options: ``KEY=VALUE`` strings as MMDetection's ``--cfg-options`` takes them; keys must exist, and those of
            the data sets still count VOC 2012 even where it is missing.
        data_root: the folder that holds the data sets (for VOC: ``VOC2007`` or ``VOCdevkit``; for COCO: what the
            config's own ``data_root`` names, with ``annotations`` and ``train2017``), instead of the config's.

    Returns:
        The config; where VOC 2012 is missing, it trains on VOC 2007 alone, and a warning says so.

    Raises:
        UserError: if the config is unknown or cannot be read, an option has no such key or no value, or the data root
            is missing or not of the data set's layout.
    """
    read = read_config(config_path(config, "mmdet"), "MMDetection")
    merge_options(read, options)
    replace_resnet(read, MODELS)
    place_coco(read, data_root)
    for name in LOADERS:
        place(read[name].dataset, data_root)
    drop_absent_years(read.train_dataloader.dataset)
    check_lists(read.train_dataloader.dataset)
    return read


def taps(config: Config) -> tuple[str, ...]:
    """The feature maps that the config's model reads, see :func:`stages_read`."""
    return tuple(STAGE_TAPS[stage] for stage in stages_read(detector(config)))


def strides_and_dilations(config: Config) -> Mapping[str, Any]:
    """At which strides and dilations the model runs the four stages, one that is a shared head included."""
    model = detector(config)
    head = (model.get("roi_head") or {}).get("shared_head") or {}
    strides = (*model.backbone.get("strides", STRIDES), head.get("stride", STRIDES[3]))[:STAGES]
    dilations = (*model.backbone.get("dilations", (1, 1, 1, 1)), head.get("dilation", 1))[:STAGES]
    return {"strides": tuple(strides), "dilations": tuple(dilations)}


def write_config(config: Config, arch: Arch, weights: Path, path: Path) -> None:
    """Write a self-contained config that trains ``arch`` from ``weights`` with MMDetection's own tools.

    Args:
        config: the config; it stays as it is.
        arch: the architecture.
        weights: the network's weights in torchvision's names; the config refers to them relative to itself, so that
            both can be moved together.
        path: the ``.py`` file to write.

    Raises:
        UserError: if neither ``DATAResNet`` nor a plain ResNet is the config's backbone.
    """
    written = copy.deepcopy(config)
    replace_resnet(written, MODELS)
    init_cfg = {"type": "Pretrained", "checkpoint": beside_config(weights)}
    set_arch(detector(written), arch, init_cfg=init_cfg)
    save_config(written, MODULE, path)
