"""A detection or segmentation framework, as far as it is known without importing it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_plugin.frameworks.config_names import ConfigNames
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed

if TYPE_CHECKING:
    from data_plugin.frameworks.framework_config import FrameworkConfig

Task = Literal["detection", "segmentation", "classification"]
"""What a model is for; of the frameworks none is for classification, for which backbones are searched all the same."""

MAIN_METRIC: Mapping[Task, str] = {"detection": "AP", "segmentation": "mIoU", "classification": "top1"}
"""Of what a fine-tuning comes to, such as :meth:`FrameworkConfig.finetune` returns, the figure that papers compare."""


@dataclass(frozen=True)
class Framework:
    """What is known of a framework without importing it.

    Args:
        name: the package to import.
        title: what its authors call it.
        task: what it is for.
        extra: the extra of ``setup.py`` that installs it.
        distributions: names under which it and what it stands on are installed, to report their versions.
        configs: the names of its configs.
        input_keys: where its configs say how images reach the network.
        seed_key: the key of its configs for the seed of a training.
        adapter: ``module:class`` of its :class:`FrameworkConfig`, which imports the framework.
        backbone_places: where its models keep the backbone or a part of it: what stands before torchvision's names in
            the names of weights.
    """

    name: str
    title: str
    task: Task
    extra: str
    distributions: tuple[str, ...]
    configs: ConfigNames
    input_keys: str
    seed_key: str
    adapter: str
    backbone_places: tuple[str, ...]

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return is_installed(self.name)

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-build-isolation 'data_plugin[{self.extra}]'"

    def require_installed(self) -> None:
        """Check that it can be imported, without importing it.

        Raises:
            UserError: if it is not installed; the message says how to install it.
        """
        if not self.is_installed:
            raise UserError(f"{self.name} is not installed; install it with: {self.install}")

    def open(
        self,
        config: str,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> FrameworkConfig:
        """Open a config.

        Args:
            config: a name under ``configs_det/<framework>/`` or ``configs_seg/<framework>/`` without its ending, a
                path, or a name of the framework's model zoo.
            options: ``KEY=VALUE`` strings that change entries, in the framework's own keys.
            data_root: the folder that holds the data sets, instead of the config's.
            classes: the classes of objects; None leaves them to the config and the annotations.

        Returns:
            The config; whatever goes wrong with it is a :class:`UserError` that names the option at fault.

        Raises:
            UserError: if the framework is not installed, the name is unknown (the message lists the known ones), or
                see :class:`FrameworkConfig`.
        """
        from data_plugin.frameworks.checked_config import CheckedConfig

        self.require_installed()
        path = self.configs.find(config)
        module, _, name = self.adapter.partition(":")
        adapter: type[FrameworkConfig] = getattr(importlib.import_module(module), name)
        return CheckedConfig(adapter, self.title, path, options, data_root, classes)
