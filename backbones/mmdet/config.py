"""Reading MMDetection configs, what they say about the model, and writing one for a searched network."""

from __future__ import annotations

import copy
import os.path
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from data_plugin.arch import Arch
from data_plugin.backbones.mmdet.voc import check_lists, drop_absent_years, place
from data_plugin.errors import UserError
from data_plugin.files import write_whole
from data_plugin.framework import config_path
from data_plugin.input_format import InputFormat
from data_plugin.taps import STAGE_TAPS

MODULE = "data_plugin.backbones.mmdet"
"""What a config must import for ``DATAResNet`` to be known."""

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(config: str, options: Sequence[str], data_root: Path | None) -> Config:
    """Read a config and find its data.

    Args:
        config: a name under ``configs_det/mmdet/`` without its ending, or a path.
        options: ``KEY=VALUE`` strings as MMDetection's ``--cfg-options`` takes them; keys must exist, and those of
            the data sets still count VOC 2012 even where it is missing.
        data_root: the folder that holds the data sets (for VOC: ``VOC2007`` or ``VOCdevkit``), instead of the config's.

    Returns:
        The config; where VOC 2012 is missing, it trains on VOC 2007 alone, and a warning says so.

    Raises:
        UserError: if the config is unknown or cannot be read, an option has no such key or no value, or the data root
            is missing or not of the data set's layout.
    """
    path = config_path(config, "mmdet")
    try:
        read = Config.fromfile(path)
    except (SyntaxError, ImportError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as an MMDetection config ({error})") from error
    missing = [key for key in ("model", *LOADERS) if read.get(key) is None]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}; expected a whole MMDetection 3 config")
    _merge(read, options)
    for name in LOADERS:
        place(read[name].dataset, data_root)
        if read[name].get("num_workers", 0) == 0:
            read[name].persistent_workers = False  # torch refuses to keep workers that do not exist
    drop_absent_years(read.train_dataloader.dataset)
    check_lists(read.train_dataloader.dataset)
    return read


def input_format(config: Config) -> InputFormat:
    """Channel order and normalisation that the config's data preprocessor feeds its model.

    MMDetection reads images as BGR; ``mean`` and ``std`` are applied after the channels are swapped.
    """
    preprocessor = config.model.get("data_preprocessor") or {}
    swapped = preprocessor.get("bgr_to_rgb", False) or preprocessor.get("rgb_to_bgr", False)
    mean, std = preprocessor.get("mean") or (0.0, 0.0, 0.0), preprocessor.get("std") or (1.0, 1.0, 1.0)
    return InputFormat("RGB" if swapped else "BGR", tuple(mean), tuple(std))


def taps(config: Config) -> tuple[str, ...]:
    """The feature maps that the config's model reads.

    A shared head is stage 4, so its detector reads C5; a neck reads the backbone's outputs from its start level to its
    end level; without either the heads read what the backbone puts out.
    """
    model = config.model
    if (model.get("roi_head") or {}).get("shared_head"):
        return (STAGE_TAPS[3],)
    outputs = _backbone(config).get("out_indices", (0, 1, 2, 3))
    neck = model.get("neck") or {}
    first = neck[0] if isinstance(neck, list) else neck
    last = first.get("end_level", -1)
    read = outputs[first.get("start_level", 0) : None if last == -1 else last + 1]
    return tuple(STAGE_TAPS[index] for index in read)


def write_config(config: Config, arch: Arch, weights: Path, path: Path) -> None:
    """Write a self-contained config that trains ``arch`` from ``weights`` with MMDetection's own tools.

    Args:
        config: the config; it stays as it is.
        arch: the architecture.
        weights: the network's weights in torchvision's names; the config refers to them relative to itself, so that
            both can be moved together.
        path: the ``.py`` file to write.

    Raises:
        UserError: if the config's backbone is not ``DATAResNet``.
    """
    written = copy.deepcopy(config)
    relative = os.path.relpath(weights.resolve(), path.resolve().parent)
    _set_network(written, arch, "{{ fileDirname }}/" + Path(relative).as_posix())
    imports = written.get("custom_imports") or ConfigDict(imports=[], allow_failed_imports=False)
    imports.imports = list(dict.fromkeys((*imports.imports, MODULE)))
    written.custom_imports = imports
    write_whole(path, lambda temporary: temporary.write_text(written.pretty_text))


def _set_network(config: Config, arch: Arch, checkpoint: str) -> None:
    model, channels = config.model, arch.out_channels
    network = {"arch": str(arch), "init_cfg": {"type": "Pretrained", "checkpoint": checkpoint}}
    backbone = _backbone(config)
    backbone.update(network)
    shared_head = (model.get("roi_head") or {}).get("shared_head")
    if shared_head:
        shared_head.update(network)
        model.roi_head.bbox_roi_extractor.out_channels = channels[2]
        model.roi_head.bbox_head.in_channels = channels[3]
        # detectron2's RPN has as many hidden channels as its input; a config that says so keeps to it.
        if model.rpn_head.get("feat_channels") == model.rpn_head.in_channels:
            model.rpn_head.feat_channels = channels[2]
        model.rpn_head.in_channels = channels[2]
    elif model.get("neck"):
        first = model.neck[0] if isinstance(model.neck, list) else model.neck
        first.in_channels = [channels[index] for index in backbone.get("out_indices", (0, 1, 2, 3))]


def _backbone(config: Config) -> ConfigDict:
    backbone = config.model.get("backbone") or {}
    if backbone.get("type") != "DATAResNet":
        raise UserError(
            f"the config's backbone is {backbone.get('type')!r}; "
            f"expected type='DATAResNet' and custom_imports=dict(imports=['{MODULE}'])"
        )
    return backbone


def _merge(config: Config, options: Sequence[str]) -> None:
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals:
            raise UserError(f"the option {option!r} has no value; expected KEY=VALUE")
        if not _has(config, key):
            raise UserError(
                f"the option {option!r} names no key of the config; its keys are {', '.join(sorted(config))}"
            )
    values = Namespace()
    try:
        DictAction(option_strings=[], dest="options")(None, values, options)  # type: ignore[arg-type]
    except AssertionError as error:
        raise UserError(f"the options {list(options)} cannot be read: {error}") from error
    config.merge_from_dict(values.options)


def _has(node: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    if isinstance(node, (Mapping, Config)) and first in node:
        return not rest or _has(node[first], rest)
    if isinstance(node, Sequence) and not isinstance(node, str) and first.isdecimal() and int(first) < len(node):
        return not rest or _has(node[int(first)], rest)
    return False
