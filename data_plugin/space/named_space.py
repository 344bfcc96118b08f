"""The search space that a user names on a command line."""

from __future__ import annotations

import json
from pathlib import Path

from data_plugin.space.search_space import SPACES, SearchSpace
from data_plugin.utils.errors import UserError


def read_space(name: str) -> SearchSpace:
    """A search space by name or from a file.

    Args:
        name: a name of :data:`SPACES`, or a ``.json`` file that holds what :meth:`SearchSpace.to_json` writes. With one
            choice everywhere it is a space of one network.

    Raises:
        UserError: if there is no such space, or the file cannot be read or holds no space.
    """
    if name in SPACES:
        return SPACES[name]()
    path = Path(name)
    if path.suffix != ".json":
        raise UserError(f"{name!r} is not a search space; expected {', '.join(SPACES)}, or the path of a .json file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the search space {path} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the search space {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {value!r}; expected a search space with stem, width and depth choices")
    space = SearchSpace.from_json(value)
    if not all(type(choice) is int for choices in (space.stem, *space.width, *space.depth) for choice in choices):
        raise UserError(f"the search space {path} has choices that are no whole numbers; expected whole numbers only")
    return space
