"""Whole numbers and sizes as arguments of tools."""

from __future__ import annotations

import argparse


def whole(text: str, least: int, expected: str) -> int:
    """A whole number of at least ``least``; ``expected`` says so in the error."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} was given; expected {expected}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from one number for both or from ``HxW``."""
    height, _, width = text.partition("x")
    expected = "pixels such as 224, or HxW such as 800x1333"
    if text.endswith("x"):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected {expected}")
    return whole(height, 1, expected), whole(width or height, 1, expected)
