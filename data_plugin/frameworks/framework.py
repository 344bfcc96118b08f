"""What search and fine-tuning ask of a detection framework, and how the framework is chosen.

Every framework has one adapter, ``data_plugin.backbones.<framework>``, with the functions of :class:`Adapter`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from data_plugin.frameworks.model_zoo import ENDINGS, similar_names, zoo_config
from data_plugin.images.batch import ImageBatches
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed

DETECTION = ("detectron2", "mmdet")
"""Frameworks for detection, in the order in which an installed one is taken."""

SEGMENTATION = ("mmseg",)
"""Frameworks for semantic segmentation, in the order in which an installed one is taken."""

INSTALL = {
    "detectron2": "pip install --no-build-isolation 'data_plugin[detectron2]'",
    "mmdet": "pip install --no-build-isolation 'data_plugin[openmmlab]'",
    "mmseg": "pip install --no-build-isolation 'data_plugin[openmmlab]'",
}
"""How each framework is installed."""

DISTRIBUTIONS = {
    "detectron2": ("detectron2",),
    "mmdet": ("onedl-mmdetection", "onedl-mmcv", "onedl-mmengine"),
    "mmseg": ("onedl-mmsegmentation", "onedl-mmcv", "onedl-mmengine"),
}
"""Names under which each framework and what it stands on are installed, to report their versions."""


class Adapter(Protocol):
    """One framework, to search and fine-tune with; ``config`` is that framework's own config object throughout."""

    def load_config(self, config: str, options: Sequence[str], data_root: Path | None) -> Any:
        """Read a config.

        Args:
            config: a name under ``configs_det/<framework>/`` or ``configs_seg/<framework>/`` without its ending, or a
                path.
            options: ``KEY=VALUE`` strings that change entries, in the framework's own keys.
            data_root: the folder that holds the data sets, instead of the config's.

        Raises:
            UserError: if the name is unknown (the message lists the known ones), an option has no such key, or
                the data root is missing or not of the data set's layout.
        """
        ...

    def input_format(self, config: Any) -> InputFormat:
        """Channel order and normalisation of the config's model."""
        ...

    def taps(self, config: Any) -> tuple[str, ...]:
        """The feature maps that the config's model reads, such as ``("C5",)`` for a C4 detector."""
        ...

    def strides_and_dilations(self, config: Any) -> Mapping[str, Any]:
        """At which strides and dilations the config's model runs its backbone, whose features search has to compare.

        Returns:
            The keywords ``strides`` and ``dilations``, four numbers each, and where it is set ``contract_dilation``, as
            :class:`~data_plugin.backbones.DynamicResNet` and :class:`~data_plugin.backbones.DATAResNet` take them.
        """
        ...

    def image_batches(self, config: Any, count: int | None, batch_size: int, seed: int) -> ImageBatches:
        """The config's training images through the framework's own loader and test-time preprocessing, unlabelled.

        Args:
            config: the config.
            count: draw this many images, reproducibly; None takes all.
            batch_size: images per batch.
            seed: seed of the draw.
        """
        ...

    def write_config(self, config: Any, arch: Arch, weights: Path, path: Path) -> None:
        """Write a self-contained config that trains a network as it is.

        Args:
            config: the config to start from.
            arch: the network.
            weights: where its weights will be, in torchvision's names, in the folder of the config.
            path: the file to write.
        """
        ...

    def finetune(
        self, config: Any, out: Path, *, resume: bool = False, eval_only: bool = False, weights: Path | None = None
    ) -> Mapping[str, float]:
        """Train with the framework's own trainer and evaluate with its own evaluator.

        Args:
            config: a config that names an architecture.
            out: folder of checkpoints and logs.
            resume: go on from the last checkpoint in ``out``.
            eval_only: evaluate only, ``weights`` or else the last checkpoint in ``out``.
            weights: checkpoint of a whole detector or segmenter.

        Returns:
            Figures in percent: ``AP``, ``AP50`` and ``AP75`` of a detector, ``mIoU``, ``aAcc`` and ``mAcc`` of a
            segmenter.

        Raises:
            UserError: if there is nothing to resume or evaluate, or the weights do not match.
        """
        ...


CONFIG_ENDING = ENDINGS
"""The file ending of each framework's configs."""

INPUT_KEYS = {
    "detectron2": "INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD",
    "mmdet": "model.data_preprocessor",
    "mmseg": "model.data_preprocessor",
}
"""Where each framework's configs say how images reach the network."""


def load_adapter(name: str | None, config: str, choices: Sequence[str] = DETECTION) -> tuple[str, Adapter]:
    """The adapter of a framework.

    Args:
        name: the framework; None takes the one that the ending of ``config`` tells, else the one whose model zoo
            has a config of that name, else the first installed.
        config: config name or path.
        choices: frameworks to choose from, in order of preference.

    Returns:
        The framework's name and its adapter.

    Raises:
        UserError: if it is unknown or not installed; the message says what to install.
    """
    if name is None:
        by_ending = [choice for choice in choices if config.endswith(CONFIG_ENDING[choice])]
        by_name = [choice for choice in choices if zoo_config(config, choice)]
        installed = [choice for choice in by_ending or by_name or choices if is_installed(choice)]
        name = next(iter(installed or by_ending), None)
    if name is None:
        raise UserError(
            f"none of {', '.join(choices)} is installed; install one, for example with: {INSTALL[choices[-1]]}"
        )
    if name not in choices:
        raise UserError(f"{name!r} is not a framework here; expected one of {', '.join(choices)}")
    if not is_installed(name):
        raise UserError(f"{name} is not installed; install it with: {INSTALL[name]}")
    return name, cast(Adapter, importlib.import_module(f"data_plugin.backbones.{name}"))


def named_config(config: str, framework: str) -> Path | None:
    """The file of one of our own configs by its name, None if there is none of that name for the framework."""
    return {path.stem: path for path in _our_configs(framework)}.get(config)


def config_path(config: str, framework: str) -> Path:
    """The file of a config: one of ours by its name, a path, or one of the framework's model zoo by its name.

    Raises:
        UserError: if there is no such file; the message lists the known names.
    """
    path = named_config(config, framework) or (Path(config) if Path(config).is_file() else None)
    path = path or zoo_config(config, framework)
    if path is None:
        known = ", ".join(path.stem for path in _our_configs(framework))
        similar = "".join(f", {name}" for name in similar_names(config, framework))
        raise UserError(f"{config!r} is neither a file nor a {framework} config; known names: {known}{similar}")
    return path


def _our_configs(framework: str) -> list[Path]:
    folders = (
        Path(importlib.import_module(f"data_plugin.{name}").__path__[0]) for name in ("configs_det", "configs_seg")
    )
    return sorted(path for folder in folders for path in (folder / framework).glob(f"*{CONFIG_ENDING[framework]}"))
