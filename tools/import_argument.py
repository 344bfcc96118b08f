"""The argument --import of the tools that read a framework's config: data sets and the like that a user wrote."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.utils.errors import UserError


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``; the parsed value is ``imports``, for :func:`import_modules`.

    Args:
        parser: the tool's parser.
    """
    parser.add_argument(
        "--import",
        dest="imports",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODULE",
        help="Python modules that register data sets, or whatever else the config names, with the framework; looked "
        "for where Python looks and in the working directory",
    )


def import_modules(names: Sequence[str]) -> None:
    """Import what ``--import`` named.

    Args:
        names: the modules.

    Raises:
        UserError: if one cannot be found, or fails while it is imported.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.append(here)  # last, so that a file that lies around hides no package
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module does
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"the module {name!r} of --import cannot be imported ({reason}); expected the dotted name of a module "
                f"in {here}, on PYTHONPATH or installed"
            ) from error
