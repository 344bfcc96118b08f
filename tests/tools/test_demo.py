import itertools
import json
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rich")

from data_plugin.frameworks.finetuned import Finetuned
from data_plugin.frameworks.registry import MMDET, frameworks_of
from data_plugin.images.batch import draw_batches
from data_plugin.search.found import Search
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.space.budget import Budget
from data_plugin.space.search_space import SPACES, SearchSpace
from data_plugin.tools import demo
from data_plugin.utils.errors import UserError

WINNER = str(SearchSpace.micro().smallest)
"""What every search finds here."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the demo would run; the AP of a training is its number among all of them."""
    ran: list[tuple[str, ...]] = []
    trained: list[str] = []

    def run(tool: str, *arguments: object, log: Path | None = None) -> None:
        ran.append((tool, *map(str, arguments)))
        if tool == "finetune_alike":
            rows = []
            for arch in values_of(ran[-1], "--arch"):
                for weights in values_of(ran[-1], "--weights"):
                    trained.append(arch)
                    metrics = {"AP": len(trained), "AP50": 50}
                    rows.append(Finetuned("", Arch.parse(Path(arch).name), weights, 0, metrics).to_json())
            folder = Path(values_of(ran[-1], "--out")[0])
            folder.mkdir(parents=True)
            (folder / "comparison.json").write_text(json.dumps({"finetuned": rows}))

    def read(out: Path) -> Search:
        (asked,) = [command for command in ran if command[0] == "search_det"]
        assert values_of(asked, "--out") == [str(out)]
        groups = values_of(asked, "--group")
        space = SearchSpace.mini() if values_of(asked, "--supernet") == ["shipped"] else SearchSpace.micro()
        winners = [SimpleNamespace(budget=group, folder=f"winners/{WINNER}") for group in groups]
        run = {"supernet": {"space": space.to_json()}}
        report = SimpleNamespace(winners=winners, budgets=groups, framework="mmdet", run=run)
        return Search(out, report)  # type: ignore[arg-type]

    monkeypatch.setattr("data_plugin.images.drawn_voc.draw_voc", lambda root, **size: root / "VOC2007")
    monkeypatch.setattr(demo, "find_framework", lambda name, config, task: MMDET)
    monkeypatch.setattr(demo, "_run", run)
    monkeypatch.setattr(Search, "read", read)
    return ran


def values_of(command: tuple[str, ...], option: str) -> list[str]:
    """What stands behind an option, up to the next one."""
    rest = command[command.index(option) + 1 :]
    return list(itertools.takewhile(lambda word: not word.startswith("--"), rest))


def test_three_of_every_group_of_the_shipped_supernet_are_trained_alike(shipped, commands, tmp_path, capsys):
    out, groups = tmp_path / "demo", demo.GROUPS["mini"]
    assert demo.main(["--out", str(out), "--seed", "3"]) == 0
    search, searched, drawn = commands
    assert values_of(search, "--group") == list(groups)
    assert [command[0] for command in commands] == ["search_det", "finetune_alike", "finetune_alike"]
    for option in ("--supernet", "--config", "--framework", "--data-root"):
        assert values_of(search, option) == values_of(searched, option) == values_of(drawn, option)
    assert values_of(search, "--supernet") == ["shipped"]
    assert values_of(search, "--seed") == values_of(searched, "--seeds") == values_of(drawn, "--seeds") == ["3"]
    assert values_of(searched, "--arch") == [str(out / "search" / "winners" / WINNER)] * len(groups)
    assert (values_of(searched, "--weights"), values_of(drawn, "--weights")) == (["supernet", "random"], ["supernet"])
    archs = [Arch.parse(text) for text in values_of(drawn, "--arch")]
    for arch, group in zip(archs, groups, strict=True):
        low, high = (float(bound) * 1e9 for bound in group.split("-"))
        assert arch in SearchSpace.mini()
        assert low <= cost.flops(arch) < high
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(groups)]
    # What was trained: the winner with both weights, then the drawn one.
    assert [row[1:3] + row[-2:-1] for row in rows] == [
        [name, arch, f"{number}.0"]
        for random, numbers in zip(archs, ((1, 3, 2),), strict=True)
        for name, arch, number in zip(demo.COMPARED, (WINNER, str(random), WINNER), numbers, strict=True)
    ]


def test_another_seed_draws_other_networks(shipped, commands, tmp_path):
    drawn = []
    for seed in ("0", "1", "0"):
        commands.clear()
        assert demo.main(["--out", str(tmp_path / "demo"), "--seed", seed]) == 0
        drawn.append(values_of(commands[-1], "--arch"))
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_demo_may_pre_train_a_supernet_of_its_own(commands, tmp_path):
    out = tmp_path / "demo"
    assert demo.main(["--out", str(out), "--pretrain"]) == 0
    pretrain, search, *_ = commands
    assert pretrain[0] == "pretrain"
    assert (values_of(pretrain, "--space"), values_of(pretrain, "--steps")) == (["micro"], ["150"])
    assert values_of(search, "--supernet") == [str(Path(*values_of(pretrain, "--out"), "supernet.safetensors"))]
    assert values_of(search, "--group") == list(demo.GROUPS["micro"])


def test_without_the_supernet_of_the_package_nothing_is_drawn(shipped, commands, tmp_path, capsys):
    shipped.unlink()
    assert demo.main(["--out", str(tmp_path / "demo")]) == 2
    assert "is missing, the supernet that comes with the package" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("space", demo.GROUPS)
def test_every_group_has_networks_to_choose_from(space: str):
    table = SPACES[space]().table
    for group in demo.GROUPS[space]:
        assert Budget.group(group).fits(table, {"flops": cost.flops}).sum() > 100


def test_a_folder_that_is_no_earlier_demo_is_left_alone(tmp_path: Path, shipped, commands, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").touch()
    assert demo.main(["--out", str(tmp_path / "work")]) == 2
    assert "is not the output of an earlier demo" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["thesis.tex"]


def test_an_unknown_framework_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert demo.main(["--out", str(tmp_path / "demo"), "--framework", "yolo"]) == 2
    assert "'yolo' is not a framework" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_logged_command_shows_its_progress_alone(tmp_path: Path, capsys: pytest.CaptureFixture):
    progress = ["Iter(train) [20/120]  loss: 1", "middle, random weights, seed 0: AP 1.0"]
    code = f"print('Config:'); print({progress[0]!r}); print({progress[1]!r}); raise SystemExit(3)"
    assert demo._run_logged([sys.executable, "-c", code], tmp_path / "logs" / "log", os.environ) == 3
    assert capsys.readouterr().out.splitlines() == [f"  {line}" for line in progress]
    assert (tmp_path / "logs" / "log").read_text().splitlines() == ["Config:", *progress]


def test_a_failing_tool_ends_the_demo(tmp_path: Path):
    with pytest.raises(UserError, match=r"data-finetune-det left with exit code 2; its output is in .*log"):
        demo._run("finetune_det", log=tmp_path / "log")


@pytest.mark.parametrize("framework", frameworks_of("detection"), ids=lambda framework: framework.name)
def test_the_recipe_is_small_and_takes_the_drawn_images_alone(framework, drawn_voc: Path):
    pytest.importorskip(framework.name, reason=f"{framework.name} is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TRAINING DATA")
        config = framework.open(demo.CONFIG, (), drawn_voc)
    assert config.taps == framework.open("faster_rcnn_c4_voc", (), drawn_voc).taps
    (batch,) = draw_batches(config.images(), 1, 1, 0)
    assert tuple(batch.images.shape) == (1, 3, 240, 320)
