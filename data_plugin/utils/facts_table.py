"""A few facts as a table, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def facts_table(facts: Mapping[str, object]) -> str:
    """An HTML table with a row a fact.

    Args:
        facts: what is said, by what it is about.
    """
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items())
    return f"<table>{''.join(rows)}</table>"
