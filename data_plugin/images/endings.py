"""Images that are there under another ending than the one that is looked for."""

from __future__ import annotations

from pathlib import Path


def beside(path: Path) -> str:
    """What to do about an image that is not there, to follow the sentence that says so.

    Args:
        path: where the image is looked for.

    Returns:
        What there is of another ending; nothing where there is none.
    """
    found = sorted(other.name for other in path.parent.glob("*") if other.stem == path.stem)
    if not found:
        return ""
    return f"; there is {found[0]}, but what is read is {path.name}: rename or convert it"
