import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

TOOLS = sorted(
    path.stem for path in (Path(__file__).parent.parent / "tools").glob("*.py") if "\ndef main(" in path.read_text()
)

SOURCES = ("data_plugin", "backbones", "configs_det", "configs_seg", "tools", "tests")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")

PIP_INSTALL = (
    "-m",
    "pip",
    "install",
    "--quiet",
    "--no-deps",
    "--no-build-isolation",
    "--no-index",
    "--ignore-installed",
)

WITH_TORCH_ALONE = """
import sys

PRESENT = {
    "data_plugin", "torch", "numpy", "safetensors",
    # What torch itself needs.
    "functorch", "torchgen", "triton", "nvidia", "cuda", "typing_extensions", "filelock", "fsspec", "jinja2",
    "markupsafe", "networkx", "sympy", "mpmath", "setuptools", "pkg_resources", "_distutils_hack",
}

class Finder:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in PRESENT or top in sys.stdlib_module_names or top.startswith("__editable__"):
            found = (finder.find_spec(name, path, target) for finder in self.finders)
            return next((spec for spec in found if spec), None)
        return None

sys.meta_path[:] = [Finder(sys.meta_path[:])]
"""

REPORT = """
import json, importlib, importlib.metadata, importlib.resources
import data_plugin, data_plugin.backbones, data_plugin.configs_det, data_plugin.configs_seg
from data_plugin.backbones import DATAResNet, DynamicResNet
from pathlib import Path

configs = [
    str(Path(file.parent.name) / file.name)
    for package in (data_plugin.configs_det, data_plugin.configs_seg)
    for pattern in ("*/*.py", "*/*.yaml")
    for file in Path(package.__file__).parent.glob(pattern)
]
scripts = importlib.metadata.entry_points(group="console_scripts")
commands = [entry for entry in scripts if entry.value.startswith("data_plugin.")]
print(json.dumps({
    "package": data_plugin.__file__,
    "networks": data_plugin.backbones.__file__,
    "configs": sorted(configs),
    "typed": importlib.resources.files("data_plugin").joinpath("py.typed").is_file(),
    "commands": {entry.name: callable(entry.load()) for entry in commands},
}))
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the checkout and nothing old gets in."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(checkout / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(source, copy)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, copy, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def configs_of(checkout: Path) -> list[str]:
    found = [path for folder in ("configs_det", "configs_seg") for path in (checkout / folder).glob("*/*.*")]
    return sorted(f"{path.parent.name}/{path.name}" for path in found if path.suffix in {".py", ".yaml"})


def test_wheel_holds_what_an_installation_needs_and_no_tests(wheel: Path, checkout: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, installed in (
        ("data_plugin", "data_plugin"),
        *((name, f"data_plugin/{name}") for name in SOURCES[1:5]),
    ):
        modules = [path.relative_to(checkout / folder) for path in (checkout / folder).rglob("*.py")]
        assert {f"{installed}/{path}" for path in modules} <= names
    for folder in ("configs_det", "configs_seg"):
        assert {f"data_plugin/{path.relative_to(checkout)}" for path in (checkout / folder).glob("*/*.yaml")} <= names
    assert "data_plugin/py.typed" in names
    shipped = {path.name for path in (checkout / "data_plugin" / "supernet" / "shipped").iterdir()}
    assert "README.md" in shipped
    assert {f"data_plugin/supernet/shipped/{name}" for name in shipped} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if "test" in name]
    assert not [name for name in names if not name.startswith(("data_plugin/", "data_plugin-"))]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pip install .", "pip install -e .", "wheel"])
def test_each_way_to_install_gives_the_whole_package(way: str, source: Path, request, tmp_path: Path, checkout: Path):
    """Installs into an environment of its own, which sees the other packages but not this checkout's installation."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched, but the .pth files in it, the checkout's among them, are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    what = {"pip install .": [copy], "pip install -e .": ["-e", copy], "wheel": []}[way]
    run(python, *PIP_INSTALL, *(what or [request.getfixturevalue("wheel")]), cwd=tmp_path)

    report = json.loads(run(python, "-c", REPORT, cwd=tmp_path))
    home = copy if way == "pip install -e ." else site
    assert Path(report["package"]).is_relative_to(home)
    assert Path(report["networks"]).is_relative_to(home)
    assert report["configs"] == configs_of(checkout)
    assert report["typed"]
    assert report["commands"]
    assert all(report["commands"].values())
    for command in report["commands"]:
        assert (environment / "bin" / command).is_file()


RENAMED = {"select_coreset": "select"}
"""Commands of another name than their file: a select.py among the tools would hide Python's own from all of them."""


def test_every_tool_is_a_console_command(checkout: Path):
    """The command data-search-det is tools/search_det.py, and so on."""
    text = (checkout / "setup.py").read_text()
    for tool in TOOLS:
        command = RENAMED.get(tool, tool).replace("_", "-")
        assert f'"data-{command} = data_plugin.tools.{tool}:main"' in text


def test_import_works_with_torch_alone(tmp_path: Path):
    code = WITH_TORCH_ALONE + "import data_plugin, data_plugin.backbones; import rich"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'rich'"


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_there_at_once(tool: str, tmp_path: Path):
    """With torch alone installed, and without importing it, which takes seconds."""
    code = f"import runpy; sys.argv[1:] = ['--help']; runpy.run_module('data_plugin.tools.{tool}', run_name='__main__')"
    code = f"PRESENT.remove('torch'); {code}"
    shown = run(sys.executable, "-c", WITH_TORCH_ALONE + code, cwd=tmp_path)
    assert shown.startswith(f"usage: {tool}")


def test_the_checkout_holds_no_further_packages(checkout: Path):
    """Its other folders and files are no part of the package."""
    for name in ("tests", "setup", "benchmarks", "docs", "scripts"):
        code = f"import importlib.util, data_plugin; assert importlib.util.find_spec('data_plugin.{name}') is None"
        run(sys.executable, "-c", code, cwd=checkout)


def test_importing_the_package_imports_no_torch(tmp_path: Path):
    code = "import sys, data_plugin; assert 'torch' not in sys.modules; data_plugin.Arch, data_plugin.SearchSpace"
    run(sys.executable, "-c", code, cwd=tmp_path)


@pytest.mark.parametrize("module", ["supernet.release", "evaluation.run"])
def test_what_draws_nothing_imports_no_matplotlib(module: str, tmp_path: Path):
    code = f"import sys, data_plugin.{module}; assert 'matplotlib' not in sys.modules"
    run(sys.executable, "-c", code, cwd=tmp_path)


def test_evaluation_imports_nothing_of_the_search(tmp_path: Path):
    code = "import sys, data_plugin.evaluation.run as _; assert 'data_plugin.search' not in sys.modules"
    run(sys.executable, "-c", code, cwd=tmp_path)
