"""A table from its recipe to a page: what is run, how it goes on, and what is said of what is missing."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE, random_detector, random_supernet

from data_plugin import SearchSpace, UserError
from data_plugin.frameworks.registry import frameworks_of
from data_plugin.ranking.run import train_each
from data_plugin.reproduce.experiment import budgets_of, finished_row
from data_plugin.reproduce.outlook import PEAK, UTILISED, step_seconds
from data_plugin.reproduce.recipe import RECIPES, Experiment, read_table
from data_plugin.reproduce.run import foresee, open_table
from data_plugin.search.taps import check_taps
from data_plugin.space import cost
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.checkpoint import save_supernet
from data_plugin.tools import reproduce

pytest.importorskip("torchvision", reason="classification needs torchvision")
pytest.importorskip("lightning", reason="classification needs lightning")

RECIPE = """
title = "A table"
kind = "ranking"
figure = "Spearman"
supernets = {{ here = "{supernet}" }}

[[rows]]
name = "classifier"
paper = 0.9
taps = ["C5"]

[rows.scales.here]
task = "classification"
data = "images"
networks = [4, 5]
length = 2
images = 10
size = [32, 32]
image_size = 32
image_count = 4
ranges = [[0, 100], [40, 60]]
seeds = [0, 1]
repeated = 4
differs = "everything"

[rows.scales.paper]
task = "classification"
data = "imagenet"
networks = 50
length = 20
images = 1000
size = [224, 224]
differs = "nothing"

[[rows]]
name = "detector"
paper = 0.8
taps = ["C5"]

[rows.scales.here]
task = "detection"
config = "faster_rcnn_c4_voc"
data = "voc"
networks = 4
length = 3
images = 10
size = [96, 96]
image_count = 2
differs = "the data"
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with images of two classes, and one that stands for a detector's data root."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("bat", "cat"):
            (tmp_path / "data" / "images" / split / name).mkdir(parents=True)
            for index in range(3):
                pixels = random.integers(0, 256, (36, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / "images" / split / name / f"{index}.png")
    (tmp_path / "data" / "voc").mkdir()
    return tmp_path / "data"


@pytest.fixture
def recipe(tmp_path) -> Path:
    save_supernet(tmp_path / "supernet.safetensors", random_supernet(SPACE))
    (tmp_path / "table.toml").write_text(RECIPE.format(supernet=tmp_path / "supernet.safetensors"))
    return tmp_path / "table.toml"


@pytest.fixture(autouse=True)
def _steps_are_not_measured(monkeypatch):
    monkeypatch.setattr("data_plugin.reproduce.outlook.step_seconds", lambda *_: 0.1)


@pytest.fixture
def arguments(recipe, data, tmp_path) -> list[str]:
    return [str(each) for each in (recipe, "--scale", "here", "--data", data, "--out", tmp_path / "out")]


@pytest.fixture
def trained(monkeypatch) -> list[Path]:
    """What would be fine-tuned, in the place of the trainings; a detector is searched without a framework."""
    runs: list[Path] = []

    def write(out: Path, name: str) -> None:
        runs.append(out)
        out.mkdir(parents=True)
        arch = out.parent.parent.name
        (out / "metrics.json").write_text(json.dumps({name: sum(map(ord, arch)) % 97 + int(out.name[-1])}))

    def classifiers(out, settings, metric, trainings, _, resume, done):
        return train_each(out, settings, metric, trainings, lambda _, folder: write(folder, "top1"), resume, done)

    def detectors(supernet, config, out, trainings, *, iterations, resume, done, **_):
        settings = {"iterations": iterations}
        return train_each(out, settings, "AP", trainings, lambda _, folder: write(folder, "AP"), resume, done)

    monkeypatch.setattr("data_plugin.ranking.classified.train_each", classifiers)
    monkeypatch.setattr("data_plugin.ranking.searched.finetune_each", detectors)
    monkeypatch.setattr("data_plugin.search.prepared.config_task", random_detector)
    framework = SimpleNamespace(open=random_detector)
    monkeypatch.setattr("data_plugin.reproduce.outlook.find_framework", lambda *_: framework)
    monkeypatch.setattr("data_plugin.search.downstream.spare_cores", lambda: 0)
    return runs


@pytest.fixture
def rows_run(monkeypatch, trained) -> list[str]:
    """The rows that would be run."""
    rows: list[str] = []
    monkeypatch.setattr("data_plugin.reproduce.run.run_row", lambda kind, row, *_: rows.append(row.name))
    return rows


def test_a_table_is_run_row_by_row_and_goes_on_where_it_stopped(arguments, trained, tmp_path, monkeypatch, capsys):
    assert reproduce.main([*arguments, "--rows", "classifier"]) == 0
    page = (tmp_path / "out" / "table.md").read_text()
    assert page in capsys.readouterr().out
    report = finished_row("ranking", tmp_path / "out" / "classifier")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| classifier")]
    assert [line[1] for line in lines] == list(report.rank_checks)
    assert all(line[2] == "0.9" for line in lines)
    for line, check in zip(lines, report.rank_checks.values(), strict=True):
        assert line[3] == f"{check.predictor('the distance').spearman:+.2f}"
        assert float(line[6]) == pytest.approx(check.reach, abs=0.006)
    assert "Differs from the paper: everything. Seeds 0 1, those after the first for 4 networks a range;" in page
    assert [len(check.networks) for check in report.rank_checks.values()][:2] == [4, 5]
    together = report.rank_checks["all together"].networks
    assert len(trained) == len({*trained}) == sum(len(each.values) for each in together)
    assert {len(each.values) for each in together} == {1, 2}
    values = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]["classifier"]
    assert values["checks"] == json.loads(
        json.dumps({name: each.to_json() for name, each in report.rank_checks.items()})
    )
    assert values["seconds"] > 0

    count = len(trained)
    assert reproduce.main([*arguments, "--rows", "classifier"]) == 2
    assert "holds the row classifier; add --resume" in capsys.readouterr().err
    assert "1 of 2 rows are not finished" in page
    assert reproduce.main([*arguments, "--resume"]) == 0
    page = (tmp_path / "out" / "table.md").read_text()
    assert "not finished" not in page
    assert "ResNet-50's shape, random weights" in page
    assert all("detector" in str(run) for run in trained[count:])
    count = len(trained)
    monkeypatch.setattr("data_plugin.reproduce.experiment.run_search", lambda *_: pytest.fail("searched again"))
    assert reproduce.main([*arguments, "--resume"]) == 0
    assert len(trained) == count


def test_a_table_of_picks_has_what_each_comes_to_over_the_seeds(arguments, recipe, trained, tmp_path, capsys):
    changes = {
        'kind = "ranking"': 'kind = "picks"\nbaselines = { "ResNet-50" = 38.7 }',
        "paper = 0.8": f'paper = 39.9\narch = "{SPACE.smallest}"',
        'differs = "the data"': 'differs = "the data"\nseeds = [0, 1]',
    }
    text = recipe.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    assert reproduce.main(arguments) == 0
    page = (tmp_path / "out" / "table.md").read_text()
    assert page in capsys.readouterr().out
    assert "The paper has beside them: ResNet-50 38.7." in page
    head, *_ = lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = {row: dict(zip(head, line, strict=False)) for line in lines for row in ["detector"] if line[0] == row}
    report = finished_row("picks", tmp_path / "out" / "detector")

    def cell(arch) -> str:
        first = sum(map(ord, str(arch))) % 97
        return f"{first}.5 ({first}.0 to {first + 1}.0)"

    (budget,) = report.budgets
    found = rows["detector"]
    assert (found["GFLOPs"], found["paper"], found["figure"]) == (budget, "39.9", "AP")
    assert found["the pick"] == cell(report.closest(budget).arch)
    assert found["the paper's network"] == cell(SPACE.smallest)
    (shaped,) = (rival.arch for rival in report.rivals if rival.name == "ResNet-50's shape")
    assert found["ResNet-50's shape"] == found["ResNet-50's shape, random weights"] == cell(shaped)
    assert len({str(run) for run in trained}) == len(trained)

    classified = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]["classifier"]["finetuning"]
    assert classified["metric"] == "top1"
    for networks in classified["networks"].values():
        assert {each["weights"] for each in networks} == {"supernet"}  # a classifier of random weights is no rival
        assert {each["seed"] for each in networks} == {0, 1}


def test_what_rows_have_in_common_stands_in_front_of_them(tmp_path):
    path = tmp_path / "table.toml"
    experiment = (
        'task = "detection"\ndata = "voc"\nnetworks = 4\nlength = 3\nimages = 10\nsize = [9, 9]\ndiffers = ""\n'
    )
    path.write_text(
        'title = ""\nkind = "picks"\nfigure = "AP"\ntaps = ["C5"]\n'
        f"\n[scales.here]\n{experiment}\n[scales.paper]\n{experiment}"
        '\n[[rows]]\nname = "both"\npaper = 1.0\n'
        '\n[[rows]]\nname = "one"\npaper = 2.0\ntaps = ["C4"]\nscales = { paper = { group = "3-4", length = 7 } }\n'
    )
    both, one = read_table(str(path)).rows
    assert sorted(both.scales) == ["here", "paper"]
    assert (both.taps, one.taps) == (["C5"], ["C4"])
    assert [*one.scales] == ["paper"]
    assert (one.scales["paper"].length, one.scales["paper"].networks) == (7, 4)
    (budget,) = budgets_of(SearchSpace.data(), one.scales["paper"])
    gflops = cost.flops(SearchSpace.data().table) / 1e9
    within = budget.fits(SearchSpace.data().table, {"flops": cost.flops})
    assert within.sum() == 8_597
    assert ((gflops >= 3) & (gflops < 4)).sum() == 8_597


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, str | None]]:
    """The rows that would be run in processes of their own, of which the detector fails, and the GPU of each."""
    found = []

    def run(command, env):
        assert not {"RANK", "WORLD_SIZE"} & env.keys()
        found.append((command[command.index("--rows") + 1], env.get("CUDA_VISIBLE_DEVICES")))
        return type("Ended", (), {"returncode": int(found[-1][0] == "detector")})

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_rows_run_beside_one_another_and_a_failure_is_named(arguments, started, capsys):
    assert reproduce.main([*arguments, "--jobs", "2"]) == 2
    assert sorted(started) == [("classifier", None), ("detector", None)]
    assert "the rows detector failed" in capsys.readouterr().err


def test_rows_are_dealt_to_gpus_and_to_the_processes_of_torchrun(arguments, started, monkeypatch):
    monkeypatch.setattr("data_plugin.reproduce.outlook._seconds", lambda *_: (1.0, "a GPU"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    seen = [each["CUDA_VISIBLE_DEVICES"] for each in reproduce._environments(6)]
    assert seen == ["0", "1", "2", "3", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert reproduce.main(arguments) == 2  # the second of two processes has the second row
    assert started == [("detector", "7")]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert reproduce.main(arguments) == 0
    assert started[1:] == [("classifier", "5")]
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name)
    for name, value in {"PROCID": 1, "LOCALID": 0, "NTASKS": 2, "NNODES": 2}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert reproduce.main(arguments) == 2
    assert started[2:] == [("detector", "5")]


def test_a_job_of_an_array_runs_its_row(arguments, rows_run, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert reproduce.main(arguments) == 0
    assert rows_run == ["classifier"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert reproduce.main(arguments) == 2
    assert "SLURM_ARRAY_TASK_ID is 7" in capsys.readouterr().err


def test_the_papers_scale_says_what_is_missing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments[arguments.index("here")] = "paper"
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for what in ("a supernet of the paper's space", f"imagenet{'/'}train", "a CUDA device"):
        assert what in printed
    assert reproduce.main(arguments) == 2
    assert "lacks a supernet of the paper's space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_hours_are_computed_for_every_step_where_there_is_no_gpu(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    opened = open_table(str(recipe), "paper", data, tmp_path / "out", str(tmp_path / "supernet.safetensors"))
    ((found,), _) = foresee(opened)
    mean = sum(cost.flops(arch, 224) for arch in SPACE) / len(SPACE)
    operations = 2 * 3 * mean * 1000 * 50
    assert found.hours == pytest.approx(operations / (PEAK * UTILISED) / 3600)
    assert (found.networks, found.trainings) == (50, 50)
    assert found.clock == "an H100, computed, not measured"


def test_hours_are_those_of_a_step_that_was_measured_here(arguments, monkeypatch, capsys):
    asked = []

    def seconds(arch, size, device, resolution):
        asked.append((arch, size))
        return 36.0

    monkeypatch.setattr("data_plugin.reproduce.outlook.step_seconds", seconds)
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    means = cost.flops(SPACE.table, (32, 32)).mean(), cost.flops(SPACE.table, (96, 96)).mean()
    assert [size for _, size in asked] == [(32, 32), (96, 96)]
    for (arch, size), mean in zip(asked, means, strict=True):
        assert cost.flops(arch, size) == pytest.approx(mean, rel=0.05)
    # Ten images for each of nine networks, of which eight have two seeds, and of four networks and one.
    assert re.search(
        r"classifier: 17 fine-tunings .*; 1.7 hours of .*, from a step that was measured, for the", printed
    )
    assert re.search(r"detector: 4 fine-tunings .*; 0.4 hours of", printed)


def test_a_step_takes_longer_where_there_is_more_to_compute():
    small, large = (
        step_seconds(arch, (64, 64), torch.device("cpu"), Resolution()) for arch in (SPACE.smallest, SPACE.largest)
    )
    assert 0 < small < large


def test_hours_are_at_the_strides_of_the_config(recipe, data, tmp_path, monkeypatch):
    """A segmenter's last stages run on larger maps than a classifier's."""
    dilated = Resolution((1, 2, 1, 1), (1, 1, 2, 4))
    segmenter = SimpleNamespace(open=lambda *_: replace(random_detector(), resolution=dilated))
    asked = []
    monkeypatch.setattr("data_plugin.reproduce.outlook.find_framework", lambda *_: segmenter)
    monkeypatch.setattr("data_plugin.reproduce.outlook.step_seconds", lambda *given: asked.append(given) or 1.0)
    foresee(open_table(str(recipe), "here", data, tmp_path / "out"))
    assert [resolution for *_, resolution in asked] == [Resolution(), dilated]
    mean = cost.flops(SPACE.table, (96, 96), dilated.strides).mean()
    assert cost.flops(asked[1][0], (96, 96), dilated.strides) == pytest.approx(mean, rel=0.05)


def test_ranges_are_between_percentiles_of_the_spaces_cost():
    experiment = Experiment("detection", "", 4, 1, 1, (1, 1), "", ranges=((0, 100), (45, 60)))
    flops = cost.flops(SPACE.table)
    whole, middle = (budget.fits(SPACE.table, {"flops": cost.flops}) for budget in budgets_of(SPACE, experiment))
    assert whole.all()
    low, high = np.quantile(flops, [0.45, 0.6])
    assert middle[(flops >= low) & (flops <= high)].all()
    assert np.ptp(flops[middle]) <= high - low + 2e6


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_that_comes_with_the_package_names_what_there_is(name):
    table = read_table(name)
    assert table.rows
    for row in table.rows:
        assert check_taps(row.taps) == tuple(row.taps)
        for experiment in row.scales.values():
            known = [
                framework for framework in frameworks_of(experiment.task) if framework.configs.ours(experiment.config)
            ]
            assert bool(known) == (experiment.task != "classification")
            assert experiment.framework in (None, *(framework.name for framework in known))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("length = 2\n", ""), "row 1 of .*, here has no entry 'length'"),
        (("length = 2\n", "length = 2\nlengths = 3\n"), "has an entry 'lengths'; expected task, data"),
        (("networks = [4, 5]\n", "networks = [4]\n"), r"row 1 of .* has networks = \[4\] and 2 ranges; expected a"),
        (('title = "A table"\n', "title = \n"), "is not TOML"),
        (('kind = "ranking"', 'kind = "rankings"'), "of the kind 'rankings'; expected ranking or picks"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_sentence(recipe, changed, said):
    recipe.write_text(recipe.read_text().replace(*changed, 1))
    with pytest.raises(UserError, match=said):
        read_table(str(recipe))


def test_another_table_or_an_unknown_row_is_refused(arguments, recipe, rows_run, tmp_path, capsys):
    assert reproduce.main([*arguments, "--rows", "clasifier"]) == 2
    assert "has no row 'clasifier'; expected classifier" in capsys.readouterr().err
    assert reproduce.main([*arguments, "--rows", "classifier"]) == 0
    assert reproduce.main([*arguments, "--resume", "--data", str(tmp_path)]) == 2
    assert "lacks the folder" in capsys.readouterr().err
    (tmp_path / "copy.toml").write_text(recipe.read_text())
    assert reproduce.main([str(tmp_path / "copy.toml"), *arguments[1:], "--rows", "classifier", "--resume"]) == 2
    assert "holds something else, its table was" in capsys.readouterr().err
    with pytest.raises(UserError, match="table7 names supernets of its own, for the row BYOL for one; leave out"):
        open_table("table7", "here", tmp_path, tmp_path / "out", "shipped")
    with pytest.raises(UserError, match="'table1' is no table; expected one of table2, table3, table4, "):
        read_table("table1")
