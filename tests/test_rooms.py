"""The order of the rooms: a folder imports from those above it in the list, and nothing imports in a circle."""

import ast
import graphlib
from collections.abc import Container, Iterable, Iterator, Mapping
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
    del found["data_plugin"]  # it hands names on
    return found


def handed_on(checkout: Path) -> dict[str, str]:
    """Which module each name is from that the package itself hands on, such as ``data_plugin.Arch``."""
    package = ast.parse((checkout / "data_plugin" / "__init__.py").read_text())
    assigned = [node for node in package.body if isinstance(node, ast.Assign)]
    (homes,) = (ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "_HOMES")
    return {f"data_plugin.{name}": f"data_plugin.{home}" for name, home in homes.items()}


def imports(source: str, known: Container[str], homes: Mapping[str, str]) -> Iterator[str]:
    """Modules of ours that a source imports, wherever in it, for type checkers too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in homes:
            yield homes[ast.unparse(node)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif inner in homes:
                    yield homes[inner]
                elif node.module in known:
                    yield node.module


@pytest.fixture(scope="module")
def graph(checkout: Path) -> dict[str, set[str]]:
    known, homes = modules(checkout), handed_on(checkout)
    assert set(homes.values()) <= known.keys()
    return {name: set(imports(path.read_text(), known, homes)) for name, path in known.items()}


def wrong_way(name: str, found: Iterable[str]) -> list[str]:
    """The modules among those that one imports which are in a room behind its own."""
    room = name.split(".")[1]
    behind = ROOMS[ROOMS.index(room) + 1 :] if room in ROOMS else ()
    return [other for other in found if other.split(".")[1] in behind]


def test_nothing_imports_in_a_circle(graph):
    # A package's own file stands for the names that it hands on.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_a_room_imports_from_those_before_it_alone(graph):
    assert not {name: wrong for name, found in graph.items() if (wrong := wrong_way(name, found))}


@pytest.mark.parametrize(
    "source",
    [
        "from data_plugin.search.run import search_supernet",
        "from data_plugin.search import run",
        "import data_plugin.search.run",
        "from data_plugin import Arch, search_supernet as search",
        "def later():\n    import data_plugin\n    return data_plugin.search_supernet",
    ],
)
def test_a_search_in_a_low_room_is_seen_however_it_is_taken(source, checkout):
    found = imports(source, modules(checkout), handed_on(checkout))
    assert wrong_way("data_plugin.supernet.checkpoint", found) == ["data_plugin.search.run"]


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
