"""The argument --classes of the tools for searching and fine-tuning."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from data_plugin.frameworks.framework import Task

HELP: Mapping[Task, str] = {
    "detection": "classes of a data set in VOC's or COCO's layout, in the order of their labels; some of them leave "
    "the objects of the others out (default: the config's, or VOC's twenty or COCO's eighty, or where the annotations "
    "name others those, VOC's sorted and COCO's in the order of their ids)",
    "segmentation": "classes of a data set in Cityscapes' layout, in order: of those in its classes.txt, where pixels "
    "of classes that are not named count as not labelled; or without such a file the names of the labels 0 and up "
    "(default: the config's, or those of classes.txt in the order of their labels)",
}
"""What the option is for, by what models are for."""


def add_classes_argument(parser: argparse.ArgumentParser, task: Task) -> None:
    """Add ``--classes``.

    Args:
        parser: the tool's parser.
        task: what the config's model is for.
    """
    parser.add_argument("--classes", type=_names, metavar="A,B,...", help=HELP[task])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
