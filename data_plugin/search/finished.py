"""The finished search that fine-tuning alone goes on with."""

from __future__ import annotations

from data_plugin.search.found import Search
from data_plugin.search.options import SearchOptions
from data_plugin.search.report.search_report import SEARCH_FILE
from data_plugin.utils.errors import UserError


def finished_search(options: SearchOptions) -> Search | None:
    """The search in an output folder, if it is finished; it has to be the one that is asked for.

    Args:
        options: what is asked for; its ``out`` is the folder.

    Raises:
        UserError: if the search was asked for something else, naming the first option that differs.
    """
    out = options.out
    if out is None or not (out / SEARCH_FILE).is_file():
        return None
    search = Search.read(out)
    before = search.report.run.get("asked_for")
    if before is None:
        raise UserError(f"{out} holds a finished search that does not say what it was asked for; name another folder")
    for name, now in options.decisive().items():
        if before.get(name) != now:
            raise UserError(
                f"{out} holds a finished search of other settings: its {name.replace('_', ' ')} was "
                f"{before.get(name)!r} and is {now!r}; give the same, or name another --out"
            )
    return search
