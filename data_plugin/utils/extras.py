"""Optional dependencies, the extras of ``setup.py``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from data_plugin.utils.errors import UserError


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require_installed(packages: Sequence[str], extra: str) -> None:
    """Check that packages can be imported, without importing them.

    Args:
        packages: their names.
        extra: the extra that brings them.

    Raises:
        UserError: if one is missing; the message tells how to install it.
    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} is not installed; install it with: pip install 'data_plugin[{extra}]'"
        )
