"""The networks of a supernet that a user names on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.backbone_files import ARCH_FILE
from data_plugin.utils.errors import UserError


def named_networks(names: Sequence[str], space: SearchSpace) -> list[Arch]:
    """Distinct networks, in the order given.

    Args:
        names: each "smallest", "middle", "largest", an architecture's string or JSON, a file that holds one, or the
            folder of a search's winner.
        space: the supernet's space.

    Raises:
        UserError: if a name is none of these, or a network does not fit inside the largest.
    """
    return list(dict.fromkeys(_named(name, space) for name in names))


def _named(name: str, space: SearchSpace) -> Arch:
    places = {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}
    if name in places:
        return places[name]
    path = Path(name, ARCH_FILE) if Path(name).is_dir() else Path(name)
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else name
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text; expected an architecture such as {ARCH_FILE} in a winner's folder"
        ) from error
    arch = Arch.parse(text)
    if not arch.fits_inside(space.largest):
        raise UserError(f"{arch} does not fit inside this supernet, whose largest network is {space.largest}")
    return arch
