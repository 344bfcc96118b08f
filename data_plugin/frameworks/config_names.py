"""Configs by name: our own, and those of the frameworks' model zoos."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class ConfigNames:
    """The names of one framework's configs; it need not be installed.

    Args:
        framework: the package, which is also the name of its folder below ``configs_det/`` or ``configs_seg/``.
        ending: the file ending of its configs, such as ``.py``.
        zoo: where the package ships the configs of its model zoo, relative to itself.
    """

    framework: str
    ending: str
    zoo: str

    def find(self, name: str) -> Path:
        """The file of a config: one of ours by its name, a path, or one of the model zoo by its name.

        Raises:
            UserError: if there is no such file, or several; the message lists the known names.
        """
        path = self.ours(name) or (Path(name) if Path(name).is_file() else None) or self.in_zoo(name)
        if path is None:
            known = ", ".join((*(path.stem for path in self._our_configs()), *self._similar(name)))
            raise UserError(f"{name!r} is neither a file nor a {self.framework} config; known names: {known}")
        return path

    def file_name(self, config: str) -> str:
        """What a config that is written for a searched network is called, given the name or path that it came from."""
        return f"{Path(config).stem}{self.ending}"

    def ours(self, name: str) -> Path | None:
        """The file of one of our own configs by its name without its ending, None if there is none of that name."""
        return next((path for path in self._our_configs() if path.stem == name), None)

    def in_zoo(self, name: str) -> Path | None:
        """The file of a config of the framework's model zoo, None if there is none of that name.

        Args:
            name: the file's name, such as ``mask-rcnn_r50_fpn_1x_coco`` or
                ``COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml``, with or without its folder and its ending.

        Raises:
            UserError: if several configs have the name; the message lists them.
        """
        folder, wanted = self._zoo_folder(), name.removesuffix(self.ending)
        if folder is None or not wanted:
            return None
        if "/" in wanted:
            path = folder / f"{wanted}{self.ending}"
            return path if path.is_file() else None
        found = [path for path in self._zoo_configs() if path.stem == wanted]
        if len(found) > 1:
            several = ", ".join(str(path.relative_to(folder)) for path in found)
            raise UserError(f"{name!r} names several configs of {self.framework}'s model zoo; give one of {several}")
        return found[0] if found else None

    def _similar(self, name: str) -> Sequence[str]:
        """Up to three names of the model zoo that are spelt like ``name``, the closest first."""
        return difflib.get_close_matches(Path(name).stem, {path.stem for path in self._zoo_configs()}, n=3)

    def _our_configs(self) -> list[Path]:
        packages = (importlib.import_module(f"data_plugin.{name}") for name in ("configs_det", "configs_seg"))
        folders = (Path(package.__path__[0]) / self.framework for package in packages)
        return sorted(path for folder in folders for path in folder.glob(f"*{self.ending}"))

    def _zoo_configs(self) -> list[Path]:
        folder = self._zoo_folder()
        if folder is None:
            return []
        paths = (path for path in folder.rglob(f"*{self.ending}") if "_base_" not in path.relative_to(folder).parts)
        return sorted(path for path in paths if not path.stem.startswith("Base-"))

    def _zoo_folder(self) -> Path | None:
        spec = importlib.util.find_spec(self.framework)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0]) / self.zoo
        return folder if folder.is_dir() else None
