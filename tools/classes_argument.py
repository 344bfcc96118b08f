"""The argument --classes of the tools for detectors."""

from __future__ import annotations

import argparse

from data_plugin.frameworks.framework import Task


def add_classes_argument(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add ``--classes`` where models are for detection; otherwise the parsed value is None.

    Args:
        parser: the tool's parser.
        task: what the config's model is for.
    """
    if task != "detection":
        parser.set_defaults(classes=None)
        return
    parser.add_argument(
        "--classes",
        type=_names,
        metavar="A,B,...",
        help="classes of a data set in VOC layout, in the order of their labels; some of them leave the objects of the "
        "others out (default: the config's, or VOC's twenty, or where the annotations name others those, sorted)",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
