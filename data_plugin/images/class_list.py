"""The file that lists the classes of label images: ``classes.txt``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_plugin.utils.errors import UserError

CLASS_LIST = "classes.txt"
"""What the file is called, in the root of a data set."""

UNLABELLED = 255
"""The label of pixels that count for nothing."""


def read_class_list(path: Path) -> dict[int, str]:
    """The classes that a file lists, by their label in the label images, in the order of the labels.

    Args:
        path: a text file with one class a line, of label 0 and up; or with a label, 0 to 254, in front of every class.
            Empty lines do not count.

    Raises:
        UserError: if the file is no text in UTF-8 or lists no class, a label is out of range or stands in front of some
            classes only, or a label or a class is listed twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text in UTF-8 ({error}); expected one class a line") from error
    found = [line.split(maxsplit=1) for line in lines if line]
    if not found:
        raise UserError(f"{path} lists no class; expected one a line, in the order of their labels in the label images")
    labelled = [len(words) == 2 and _is_number(words[0]) for words in found]
    if any(labelled):
        listed = [(_label(path, words), words[-1]) for words in found]
    else:
        listed = [(label, line) for label, line in enumerate(line for line in lines if line)]
    _check_once(path, "label", [label for label, _ in listed])
    _check_once(path, "class", [name for _, name in listed])
    if len(listed) > UNLABELLED:
        raise UserError(
            f"{path} lists {len(listed)} classes; expected at most {UNLABELLED}, which labels can tell apart"
        )
    return dict(sorted(listed))


def _is_number(word: str) -> bool:
    return word.lstrip("+-").isdecimal()


def _label(path: Path, words: Sequence[str]) -> int:
    expected = f"expected a label of 0 to {UNLABELLED - 1} and the class's name, as in the other lines"
    if len(words) != 2 or not _is_number(words[0]):
        raise UserError(f"{path} has the line {' '.join(words)!r}; {expected}")
    if not 0 <= int(words[0]) < UNLABELLED:
        raise UserError(f"{path} gives {words[1]!r} the label {words[0]}; {expected}")
    return int(words[0])


def _check_once(path: Path, what: str, values: Sequence[object]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists the {what} {twice[0]} twice; expected each {what} once")
