"""Files of recipes, of pre-training and of the papers' tables."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from data_plugin.utils.errors import UserError


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The values of a recipe's TOML file, unchecked.

    Args:
        path: the file.

    Raises:
        UserError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} is not TOML: {error}") from error
