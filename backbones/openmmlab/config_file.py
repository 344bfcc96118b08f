"""Reading, changing and writing MMEngine's config files."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import Registry

from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")

_KNOWN = {"__main__", "builtins", "data_plugin", "mmcv", "mmdet", "mmengine", "mmseg", "torch"}
"""Packages that a config need not import, and the script that runs, which it cannot."""


def read_config(path: Path, title: str) -> Config:
    """Read a config.

    Args:
        path: the config file.
        title: the framework's name for the message, such as ``MMDetection``.

    Raises:
        UserError: if the file is no whole config.
    """
    read = Config.fromfile(path)
    missing = [key for key in ("model", *LOADERS) if read.get(key) is None]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}; expected a whole {title} config")
    return read


def merge_options(config: Config, options: Sequence[str]) -> None:
    """Change entries of a config.

    Args:
        config: the config; changed in place.
        options: ``KEY=VALUE`` strings as the frameworks' ``--cfg-options`` takes them; keys must exist.

    Raises:
        UserError: if an option has no such key or no value, or cannot be read.
    """
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
    for name in LOADERS:
        if config[name].get("num_workers", 0) == 0:
            config[name].persistent_workers = False  # torch refuses to keep workers that do not exist


def leaves(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets below wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    if "datasets" in dataset:
        return [leaf for each in dataset.datasets for leaf in leaves(each)]
    return leaves(dataset.dataset) if "dataset" in dataset else [dataset]


def beside_config(weights: Path) -> str:
    """How a config names weights that lie in its folder, so that the folder can be moved."""
    return "{{ fileDirname }}/" + weights.name


def save_config(config: Config, scope: str, path: Path) -> None:
    """Write a config whole, which imports our adapter and what else it names that is no part of OpenMMLab.

    Args:
        config: the config; changed.
        scope: the framework's package, which is the name of our adapter, too.
        path: the ``.py`` file to write.
    """
    imports = config.get("custom_imports") or ConfigDict(imports=[], allow_failed_imports=False)
    modules = (*imports.imports, f"data_plugin.backbones.{scope}", *_modules_of(config, scope))
    imports.imports = list(dict.fromkeys(modules))
    config.custom_imports = imports
    write_whole(path, lambda temporary: temporary.write_text(config.pretty_text))


def _modules_of(config: Config, scope: str) -> list[str]:
    """The modules of users that registered what the config names by ``type``, sorted."""
    registries = [
        registry
        for package in ("mmengine.registry", f"{scope}.registry")
        for registry in vars(importlib.import_module(package)).values()
        if isinstance(registry, Registry)
    ]
    found = {
        registry.module_dict[name].__module__
        for name in (each.removeprefix(f"{scope}.") for each in _types(config.to_dict()))
        for registry in registries
        if name in registry.module_dict
    }
    return sorted(module for module in found if module.partition(".")[0] not in _KNOWN)


def _types(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        own = {node["type"]} if isinstance(node.get("type"), str) else set()
        return own.union(*map(_types, node.values()))
    return set().union(*map(_types, node)) if isinstance(node, (list, tuple)) else set()


def _has(node: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    if isinstance(node, (Mapping, Config)) and first in node:
        return not rest or _has(node[first], rest)
    if isinstance(node, Sequence) and not isinstance(node, str) and first.isdecimal() and int(first) < len(node):
        return not rest or _has(node[int(first)], rest)
    return False
