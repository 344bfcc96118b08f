"""Reading, changing and writing MMEngine's config files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


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


def save_config(config: Config, module: str, path: Path) -> None:
    """Write a config whole, with an import of ``module`` in it; ``config`` is changed."""
    imports = config.get("custom_imports") or ConfigDict(imports=[], allow_failed_imports=False)
    imports.imports = list(dict.fromkeys((*imports.imports, module)))
    config.custom_imports = imports
    write_whole(path, lambda temporary: temporary.write_text(config.pretty_text))


def _has(node: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    if isinstance(node, (Mapping, Config)) and first in node:
        return not rest or _has(node[first], rest)
    if isinstance(node, Sequence) and not isinstance(node, str) and first.isdecimal() and int(first) < len(node):
        return not rest or _has(node[int(first)], rest)
    return False
