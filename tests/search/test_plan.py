import json
import os
import warnings
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from samples import SPACE, RandomImages, random_batches
from torch.utils.flop_counter import FlopCounterMode

from data_plugin.features.prefix_tree import tree_order, walk
from data_plugin.frameworks.framework import Framework
from data_plugin.frameworks.registry import DETECTRON2, MMDET
from data_plugin.search import plan as plan_module
from data_plugin.search.options import SearchOptions
from data_plugin.search.plan import SearchPlan, foresee, work
from data_plugin.search.run import plan_search, run_search
from data_plugin.search.searcher import Searcher
from data_plugin.search.strategies.sample import Sample
from data_plugin.space.cost import STRIDES
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools import search_det
from data_plugin.tools.demo_data import demo_data
from data_plugin.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:256 images were asked for")


@pytest.fixture
def bare(config, shipped, tmp_path, monkeypatch):
    """What the command needs to be given nothing but a config, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    return ["--config", "faster_rcnn_c4_voc"]


@pytest.fixture
def few(bare):
    """The same for fewer networks."""
    return [*bare, "--samples", "3"]


def plans(printed: str) -> dict[str, str]:
    """The lines of a plan by their names."""
    return dict(line.split(maxsplit=1) for line in printed.split("\n\n")[0].splitlines())


def test_a_config_alone_is_enough(bare, tmp_path, capsys):
    assert search_det.main(bare) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "runs" / "faster_rcnn_c4_voc-1" / "report.html").is_file()
    plan = plans(printed)
    assert plan["config"] == "faster_rcnn_c4_voc, MMDetection"
    assert plan["supernet"].startswith("shipped, trained with distill; a teacher of its weights saw labels")
    assert plan["images"] == "3 of 3, random images"
    assert plan["taps"] == "C5"
    assert plan["output"] == os.path.join("runs", "faster_rcnn_c4_voc-1")
    budgets = [int(budget.partition("(")[2].rstrip(")")) for budget in plan["budgets"].split(", ")]
    assert len(budgets) == 5
    found = json.loads((tmp_path / "runs" / "faster_rcnn_c4_voc-1" / "search.json").read_text())
    drawn = {network["arch"] for network in found["candidates"]}
    rivals = {rival["arch"] for rival in found["rivals"]} - drawn
    assert plan["networks"].startswith(f"{sum(budgets)} at the most and {len(rivals)} rivals, ")
    assert search_det.main(bare) == 0
    assert (tmp_path / "runs" / "faster_rcnn_c4_voc-2" / "report.html").is_file()


def test_what_fine_tuning_will_miss_is_said(few, config, tmp_path, capsys):
    config.misses = ["test.txt is missing", "so is val.txt"]
    assert search_det.main([*few, "--dry-run"]) == 0
    assert plans(capsys.readouterr().out)["lacking"] == "for fine-tuning: test.txt is missing; so is val.txt"


def test_data_of_two_frameworks_are_warned_of_once(few, config, monkeypatch, recwarn):
    warn = partial(warnings.warn, "the data have classes of their own", stacklevel=1)

    class Warns(Framework):
        def open(self, *given):
            warn()
            return config

    frameworks = [
        Warns(**{each.name: getattr(made, each.name) for each in fields(made)}) for made in (MMDET, DETECTRON2)
    ]
    monkeypatch.setattr(Framework, "is_installed", True)
    monkeypatch.setattr("data_plugin.search.downstream.find_framework", lambda *_: frameworks[0])
    monkeypatch.setattr("data_plugin.search.downstream.frameworks_of", lambda task: frameworks)
    assert search_det.main([*few, "--dry-run"]) == 0
    assert [str(each.message) for each in recwarn if "classes" in str(each.message)] == [warn.args[0]]


def test_a_dry_run_says_the_same_and_writes_nothing(few, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert search_det.main([*few, "--dry-run"]) == 0
    dry = plans(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == before
    assert search_det.main(few) == 0
    plan = plans(capsys.readouterr().out)
    assert {**dry, "time": ""} == {**plan, "time": ""}
    assert dry["time"].endswith(" on cpu")


def test_resume_finds_the_newest_search_that_is_unfinished(few, config, tmp_path, capsys):
    assert search_det.main([*few, "--resume"]) == 2
    assert "runs holds no unfinished search of faster_rcnn_c4_voc" in capsys.readouterr().err
    assert search_det.main(few) == 0

    class Stopping(RandomImages):
        def __getitem__(self, index):
            if self.names[index] == "1.jpg":
                raise KeyboardInterrupt
            return super().__getitem__(index)

    whole, config.source = config.source, Stopping([(64, 64)] * 3)
    with pytest.raises(KeyboardInterrupt):
        search_det.main([*few, "--batch-size", "1", "--seed", "1"])
    config.source = whole
    assert search_det.main([*few, "--batch-size", "1", "--seed", "1", "--resume"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "faster_rcnn_c4_voc-1",
        "faster_rcnn_c4_voc-2",
    ]
    assert not (tmp_path / "runs" / "faster_rcnn_c4_voc-2" / "partial").exists()


def test_the_environment_names_the_data_root(few, config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert search_det.main([*few, "--dry-run"]) == 0
    assert config.opened_at == tmp_path
    assert search_det.main([*few, "--dry-run", "--data-root", "here"]) == 0
    assert config.opened_at == Path("here")


@pytest.mark.parametrize(("task", "folder"), [("detection", "VOC2007/JPEGImages"), ("segmentation", "leftImg8bit/val")])
def test_demo_data_is_drawn_once(task, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="run the command once in a single process"):
        demo_data(task)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    root = demo_data(task)
    drawn = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert any((root / folder).rglob("*.[jp]*g"))
    assert demo_data(task) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == drawn


@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (1, 2, 1, 1)])
@pytest.mark.parametrize("taps", [["C5"], ["C2", "C4"], ["z"]])
def test_work_is_what_torch_counts(supernet_file, taps, strides):
    supernet = load_supernet(supernet_file).at(torch.device("cpu"), strides=strides)
    archs, size = tree_order(SPACE.sample(7, seed=0)), (64, 96)
    last_stage = {"C5": 3, "C4": 2, "z": 3}[taps[-1]]
    images = torch.randn(1, 3, *size)
    maps: dict[str, list[torch.Tensor]] = {tap: [] for tap in taps}

    def keep(stage, features, first, end):
        if f"C{stage + 2}" in maps:
            maps[f"C{stage + 2}"].append(features.flatten(2)[0])

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        teacher = supernet.key(images, SPACE.largest)
        walk(supernet.query, images, archs, last_stage, keep)
    counted = counter.get_total_flops() // 2
    for tap, compared in maps.items():
        for found in compared:  # none for z
            own = teacher[int(tap[1]) - 2].shape[1]
            counted += (found.shape[0] + own) * found.shape[1] ** 2
    assert work(archs, SPACE.largest, taps, size, strides) == counted


def test_drawn_rows_and_more_images_and_networks_are_less_and_more_work(config, supernet_file, tmp_path):
    def plan(**options) -> SearchPlan:
        base = {"batch_size": 1, "device": "cpu", "taps": ["C2"]}
        found = plan_search(SearchOptions("any", supernet_file, tmp_path / "out", **{**base, **options}))
        assert found is not None
        return found

    usual = plan()
    assert plan(relation_rows=2).flops < usual.flops
    assert plan(image_count=1).flops == pytest.approx(usual.flops / 3)
    assert plan(norm="recalibrated").flops > usual.flops
    assert usual.seconds > 0


def test_nothing_is_announced_before_all_is_checked(config, supernet_file, tmp_path):
    told: list[SearchPlan] = []
    options = SearchOptions("any", supernet_file, tmp_path / "out", strategy=Sample(3), device="cpu", batch_size=1)
    assert run_search(options, told.append) is not None
    assert [plan.out for plan in told] == [tmp_path / "out"]
    with pytest.raises(UserError, match="is not empty"):
        run_search(options, told.append)
    assert len(told) == 1


def test_large_images_are_timed_in_parts_for_as_long_as_patience_lasts(supernet_file, monkeypatch):
    searcher, batches = Searcher(load_supernet(supernet_file), ["C5"]), random_batches([(500, 600), (400, 500)])
    measure, seen = Searcher.measure, []

    def recorded(self, archs, held):
        (batch,) = held
        seen.append((tuple(batch.images.shape[-2:]), batch.sizes))
        return measure(self, archs, held)

    monkeypatch.setattr(Searcher, "measure", recorded)
    archs = SPACE.sample(4, seed=0)
    flops, seconds = foresee(searcher, batches, archs, 10, STRIDES)
    first, *parts = seen
    assert first == parts[0]  # the first time of all takes longer
    assert [size for size, _ in parts] == [(125, 150), (250, 300), (500, 600)]
    assert parts[-1][1] == [(500, 600), (400, 500)]
    monkeypatch.setattr(plan_module, "PATIENCE", 0.0)
    again, roughly = foresee(searcher, batches, archs, 10, STRIDES)
    assert seen[4:] == [first, first]
    assert again == flops
    assert roughly > 0
    assert seconds > 0


def test_images_that_do_not_fit_are_refused_with_the_plan(supernet_file):
    searcher = Searcher(load_supernet(supernet_file), ["C5"], max_memory=2_000_000)
    with pytest.raises(UserError, match=r"one image of 500x600 needs .* MB, more than the bound"):
        foresee(searcher, random_batches([(500, 600)]), SPACE.sample(4, seed=0), 10, STRIDES)
