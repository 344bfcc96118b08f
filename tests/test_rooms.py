"""The order of the rooms: a folder imports from those above it in the list, and nothing imports in a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = (
    "utils", "space", "images", "supernet", "features", "frameworks",
    "evaluation", "pretrain", "search", "ranking", "coreset", "routing", "reproduce",
)  # fmt: skip
"""The rooms of ``data_plugin/``, the ground first."""

FRAMEWORKS = ("detectron2", "mmdet", "mmseg", "openmmlab")


def modules(checkout: Path) -> dict[str, Path]:
    found = {}
    for folder, package in (
        ("data_plugin", "data_plugin"),
        ("backbones", "data_plugin.backbones"),
        ("tools", "data_plugin.tools"),
    ):
        for path in (checkout / folder).rglob("*.py"):
            parts = path.relative_to(checkout / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


@pytest.fixture(scope="module")
def graph(checkout: Path) -> dict[str, set[str]]:
    known = modules(checkout)
    # The package itself hands names on, when they are used.
    return {name: set(imports(path, known)) - {"data_plugin"} for name, path in known.items() if name != "data_plugin"}


def test_nothing_imports_in_a_circle(graph):
    # A package's own file stands for the names that it hands on.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_a_room_imports_from_those_before_it_alone(graph):
    wrong = []
    for name, found in graph.items():
        room = name.split(".")[1]
        if room not in ROOMS:
            continue
        for other in found:
            imported = other.split(".")[1]
            if imported in ROOMS and ROOMS.index(imported) > ROOMS.index(room):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_every_folder_of_the_package_is_a_room(checkout):
    folders = {path.name for path in (checkout / "data_plugin").iterdir() if path.is_dir() and path.name[0] != "_"}
    assert folders <= set(ROOMS)


def test_algorithms_import_no_tool_and_no_adapter(graph):
    for name, found in graph.items():
        if name.split(".")[1] in ROOMS:
            adapters = tuple(f"data_plugin.backbones.{framework}" for framework in FRAMEWORKS)
            assert not [other for other in found if other.startswith(("data_plugin.tools", *adapters))], name


def test_networks_stand_on_architectures_alone(graph):
    """Everything may build networks, so they import nothing but utils and the space."""
    for name, found in graph.items():
        parts = name.split(".")
        if parts[1] == "backbones" and not (len(parts) > 2 and parts[2] in FRAMEWORKS):
            assert all(other.split(".")[1] in ("utils", "space", "backbones") for other in found), name
