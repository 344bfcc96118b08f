"""Configs by the names that the frameworks' own model zoos give them."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from data_plugin.utils.errors import UserError

FOLDERS = {"detectron2": "model_zoo/configs", "mmdet": ".mim/configs", "mmseg": ".mim/configs"}
"""Where each package ships its configs, which is where its ``model_zoo`` or ``mim`` looks for them too."""

ENDINGS = {"detectron2": ".yaml", "mmdet": ".py", "mmseg": ".py"}
"""The file ending of each framework's configs."""


def zoo_config(name: str, framework: str) -> Path | None:
    """The file of a config of a framework's model zoo, None if there is none of that name.

    Args:
        name: the file's name, such as ``mask-rcnn_r50_fpn_1x_coco`` or
            ``COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml``, with or without its folder and its ending.
        framework: the framework; need not be installed.

    Raises:
        UserError: if several configs have the name; the message lists them.
    """
    folder, ending = _folder(framework), ENDINGS.get(framework, "")
    wanted = name.removesuffix(ending)
    if folder is None or not wanted:
        return None
    if "/" in wanted:
        path = folder / f"{wanted}{ending}"
        return path if path.is_file() else None
    found = [path for path in _configs(folder, framework) if path.stem == wanted]
    if len(found) > 1:
        several = ", ".join(str(path.relative_to(folder)) for path in found)
        raise UserError(f"{name!r} names several configs of {framework}'s model zoo; give one of {several}")
    return found[0] if found else None


def similar_names(name: str, framework: str) -> list[str]:
    """Up to three names of the framework's model zoo that are spelt like ``name``, the closest first."""
    folder = _folder(framework)
    known = {path.stem for path in _configs(folder, framework)} if folder else set()
    return difflib.get_close_matches(Path(name).stem, known, n=3)


def _folder(framework: str) -> Path | None:
    spec = importlib.util.find_spec(framework) if framework in FOLDERS else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / FOLDERS[framework]
    return folder if folder.is_dir() else None


def _configs(folder: Path, framework: str) -> list[Path]:
    paths = (path for path in folder.rglob(f"*{ENDINGS[framework]}") if "_base_" not in path.relative_to(folder).parts)
    return sorted(path for path in paths if not path.stem.startswith("Base-"))
