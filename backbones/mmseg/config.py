"""Reading MMSegmentation configs, what they say about the model, and writing one for a searched network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from data_plugin.backbones.mmseg.datasets import place
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
from data_plugin.space.arch import Arch
from data_plugin.space.cost import STRIDES

MODULE = "data_plugin.backbones.mmseg"
"""What a config must import for ``DATAResNet`` to be known."""


def load_config(config: str, options: Sequence[str], data_root: Path | None) -> Config:
    """Read a config and find its data.

    Args:
        config: a name under ``configs_seg/mmseg/`` without its ending, a path, or a name of MMSegmentation's model zoo.
        options: ``KEY=VALUE`` strings as MMSegmentation's ``--cfg-options`` takes them; keys must exist.
        data_root: the folder of the data set (for Cityscapes: the one that holds ``leftImg8bit`` and ``gtFine``),
            instead of the config's.

    Raises:
        UserError: if the config is unknown or cannot be read, an option has no such key or no value, its backbone is
            not a plain ResNet, or the data root is missing or not of the data set's layout.
    """
    read = read_config(config_path(config, "mmseg"), "MMSegmentation")
    merge_options(read, options)
    replace_resnet(read, MODELS)
    for name in LOADERS:
        place(read[name].dataset, data_root)
    return read


def taps(config: Config) -> tuple[str, ...]:
    """The feature maps that the config's decode and auxiliary heads, or its neck, read; see :func:`stages_read`."""
    return tuple(STAGE_TAPS[stage] for stage in stages_read(detector(config)))


def strides_and_dilations(config: Config) -> Mapping[str, Any]:
    """At which strides and dilations the config's model runs the four stages; those it does not build run plainly."""
    backbone = detector(config).backbone
    strides, dilations = tuple(backbone.get("strides", STRIDES)), tuple(backbone.get("dilations", (1, 1, 1, 1)))
    return {
        "strides": strides + STRIDES[len(strides) :],
        "dilations": dilations + (1, 1, 1, 1)[len(dilations) :],
        "contract_dilation": backbone.get("contract_dilation", False),
    }


def write_config(config: Config, arch: Arch, weights: Path, path: Path) -> None:
    """Write a self-contained config that trains ``arch`` from ``weights`` with MMSegmentation's own tools.

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
