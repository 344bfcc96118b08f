"""Self-supervised backbones cut to your images, your task and your budget, without labels."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_plugin.backbones.data_resnet import DATAResNet
    from data_plugin.coreset.run import select_coreset
    from data_plugin.features.clustering import cluster_store
    from data_plugin.features.run import embed_images
    from data_plugin.pretrain.run import pretrain_supernet
    from data_plugin.routing.run import route_supernet
    from data_plugin.search.run import search_supernet
    from data_plugin.space.arch import Arch
    from data_plugin.space.search_space import SearchSpace
    from data_plugin.supernet.checkpoint import load_supernet
    from data_plugin.utils.errors import UserError

__all__ = [
    "Arch",
    "DATAResNet",
    "SearchSpace",
    "UserError",
    "cluster_store",
    "embed_images",
    "load_supernet",
    "pretrain_supernet",
    "route_supernet",
    "search_supernet",
    "select_coreset",
]
__version__ = "0.1.0"

_HOMES = {
    "Arch": "space.arch",
    "DATAResNet": "backbones.data_resnet",
    "SearchSpace": "space.search_space",
    "UserError": "utils.errors",
    "cluster_store": "features.clustering",
    "embed_images": "features.run",
    "load_supernet": "supernet.checkpoint",
    "pretrain_supernet": "pretrain.run",
    "route_supernet": "routing.run",
    "search_supernet": "search.run",
    "select_coreset": "coreset.run",
}
"""Which module each public name comes from; it is imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CheckoutFolders:
    """Finds the sub-packages that setup.py maps into this package where they lie in a source checkout: beside it."""

    NAMES = ("backbones", "configs_det", "configs_seg", "tools")

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, folder = name.partition(".")
        if package != __name__ or folder not in self.NAMES:
            return None
        home = self.checkout / folder
        return spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])


_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").is_file() and (_checkout / "backbones" / "dynamic_resnet.py").is_file():
    # Before the finders of an installation, which may be of another checkout.
    sys.meta_path.insert(0, _CheckoutFolders(_checkout))  # type: ignore[arg-type]
