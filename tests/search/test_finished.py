"""The finished search that fine-tuning goes on with has to be the one that is asked for."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from data_plugin.search.finished import finished_search
from data_plugin.search.options import SearchOptions
from data_plugin.search.run import run_search
from data_plugin.search.strategies.sample import Sample
from data_plugin.space.budget import Budget
from data_plugin.utils.errors import UserError

OTHERS = {
    "config": "faster_rcnn_fpn_coco",
    "supernet": "shipped",
    "framework": "detectron2",
    "data_root": Path("elsewhere"),
    "classes": ("emu",),
    "budgets": (Budget.group("0-0.5"),),
    "every_group": True,
    "input_size": (96, 96),
    "latency_table": "table.json",
    "strategy": Sample(4),
    "images": Path("photographs"),
    "image_size": 32,
    "image_count": None,
    "batch_size": 2,
    "taps": ("C4",),
    "reduction": "sum",
    "norm": "running",
    "precision": "bfloat16",
    "relation_rows": 2,
    "search_teacher": ("hub:dinov3", "dinov3_vits16"),
    "max_memory": 10**9,
    "seed": 1,
    "pareto": True,
    "options": ("model.backbone.depth=50",),
}
"""Another value of everything that decides a search."""

ALIKE = {"out", "task", "device", "overwrite", "resume"}
"""What decides none."""


@pytest.fixture
def options(config, supernet_file, tmp_path) -> SearchOptions:
    """Those of a search that is finished."""
    given = SearchOptions("faster_rcnn_c4_voc", supernet_file, tmp_path / "out", strategy=Sample(3), batch_size=1)
    asked = replace(given, budgets=(Budget.group("0-1"),), data_root=tmp_path, device="cpu")
    run_search(asked)
    return asked


def test_every_option_that_decides_a_search_has_to_be_the_same(options):
    assert OTHERS.keys() | ALIKE == {field.name for field in fields(SearchOptions)}
    for name, other in OTHERS.items():
        with pytest.raises(UserError, match=rf"other settings: its {name.replace('_', ' ')} was .* and is "):
            finished_search(replace(options, **{name: other}))


def test_the_same_search_is_found_however_its_paths_are_written(options, tmp_path):
    found = finished_search(replace(options, supernet=str(options.supernet), device="auto", resume=True))
    assert found is not None
    assert found.report.budgets == ["0-1"]
    assert finished_search(replace(options, out=tmp_path / "other")) is None


def test_a_search_that_does_not_say_what_it_was_asked_for_is_refused(options):
    path = options.out / "search.json"
    contents = json.loads(path.read_text())
    del contents["run"]["asked_for"]
    path.write_text(json.dumps(contents))
    with pytest.raises(UserError, match="does not say what it was asked for"):
        finished_search(options)
