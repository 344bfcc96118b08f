"""The package ``cityscapesscripts`` where detectron2 looks for it."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.evaluation import CityscapesInstanceEvaluator

from data_plugin.utils.errors import UserError

PACKAGE = "cityscapesscripts"
_WHERE_DETECTRON2_LOOKS = f"deeplearning.projects.cityscapesApi.{PACKAGE}"
_EVALUATION = f"{_WHERE_DETECTRON2_LOOKS}.evaluation.evalInstanceLevelSemanticLabeling"


def let_detectron2_find_it() -> None:
    """Give ``cityscapesscripts`` the name by which detectron2 imports it since December 2024.

    That name is of a repository inside Meta; outside, every use of Cityscapes ends in ``ModuleNotFoundError`` (issue
    5436 of detectron2). The modules are imported when detectron2 asks for them, not here.
    """
    if "deeplearning" in sys.modules or find_spec("deeplearning") or not (package := find_spec(PACKAGE)):
        return
    parts = _WHERE_DETECTRON2_LOOKS.split(".")
    for end in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:end]))
        module.__path__ = list(package.submodule_search_locations or []) if end == len(parts) else []
        sys.modules[module.__name__] = module


def require_cityscapesscripts() -> None:
    """Check that Cityscapes can be read and evaluated.

    Raises:
        UserError: if ``cityscapesscripts``, or a package that it needs, is not installed.
    """
    try:
        importlib.import_module(_EVALUATION)
    except ImportError as error:
        raise UserError(
            f"Cityscapes needs a package that is not installed ({error}); install it with: pip install {PACKAGE}"
        ) from error


class InstanceEvaluator(CityscapesInstanceEvaluator):
    """detectron2's evaluator, without the ``matches.json`` that Cityscapes' scripts leave in the working folder."""

    def evaluate(self) -> Any:
        """The figures that detectron2's evaluator gives; None in all processes but the first.

        Raises:
            UserError: if all that the detector found of a class is of no account, where Cityscapes' scripts fail.
        """
        scripts: Any = importlib.import_module(_EVALUATION)
        write = scripts.writeDict2JSON
        # An absolute path stays as it is; the temporary folder goes when the figures are there.
        scripts.writeDict2JSON = lambda contents, path: write(contents, str(Path(self._temp_dir) / path))
        try:
            return super().evaluate()
        except IndexError as error:
            raise UserError(
                "Cityscapes' scripts cannot evaluate a detector whose only findings of a class are in regions that do "
                "not count, as one that has hardly learnt has; train it longer, then evaluate with --eval-only"
            ) from error
        finally:
            scripts.writeDict2JSON = write
