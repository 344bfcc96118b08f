"""Whole numbers, sizes, parts and paths of sub-nets as arguments of tools."""

from __future__ import annotations

import argparse

from data_plugin.utils.errors import UserError


def whole(text: str, least: int, expected: str) -> int:
    """A whole number of at least ``least``; ``expected`` says so in the error."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} was given; expected {expected}")
    return int(text)


def iterations(text: str) -> int:
    """The length of a training."""
    return whole(text, least=1, expected="a number of iterations, at least 1")


def sub_net(text: str) -> tuple[int, ...]:
    """The path of a sub-net, from its groups with commas between them."""
    return tuple(whole(group, 0, "groups such as 2,0,1,3") for group in text.split(","))


def part(text: str) -> float:
    """A part of the labels, 0 to 1, from per cent.

    Raises:
        UserError: if it is none.
    """
    number = text.removesuffix("%")
    try:
        if number == text:
            raise ValueError(text)
        return float(number) / 100
    except ValueError as error:
        raise UserError(f"--labels is {text!r}; expected a percentage such as 1%, 10% or 100%") from error


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from one number for both or from ``HxW``."""
    height, _, width = text.partition("x")
    expected = "pixels such as 224, or HxW such as 800x1333"
    if text.endswith("x"):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected {expected}")
    return whole(height, 1, expected), whole(width or height, 1, expected)
