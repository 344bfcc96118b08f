"""The argument --data-root of the tools that read a config's data sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

VARIABLE = "DATA_ROOT"
"""Environment variable that stands in for the argument."""


def add_data_root_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-root``; the parsed value is None where neither it nor the variable names a folder.

    Args:
        parser: the tool's parser.
    """
    named = os.environ.get(VARIABLE)
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path(named) if named else None,
        metavar="FOLDER",
        help=f"folder of the data sets, instead of the config's (default: the environment variable {VARIABLE}; without "
        "it the framework's convention: data/VOCdevkit and the like in the config, or DETECTRON2_DATASETS)",
    )
