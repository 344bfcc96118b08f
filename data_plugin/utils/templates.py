"""The templates of pages that need no network."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, Template


def template(package: str, name: str) -> Template:
    """A template that turns text into markup nowhere.

    Args:
        package: the package that it lies in.
        name: its file.
    """
    loader = PackageLoader(package, ".")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
