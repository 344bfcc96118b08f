"""A search by the latencies of another device."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import SPACE, FailingImages, latency_table

from data_plugin import Arch, SearchSpace
from data_plugin.space import cost
from data_plugin.space.resolution import Resolution
from data_plugin.tools import search_det

pytestmark = pytest.mark.filterwarnings("ignore:256 images were asked for", "ignore:.*networks were asked for")

LATENCIES = 1e-9 * cost.flops(SPACE.table, (64, 64))
BUDGET = f"latency<={1e3 * float(np.median(LATENCIES)):.6f}ms"
DEVICE = "a board with a runtime 1.0, at 64x64"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    latency_table().write(path)
    return path


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured on this device, which a search by a table has no use for."""
    found: list[str] = []
    monkeypatch.setattr("data_plugin.space.measured_cost.torch_latency", lambda *_: found.append("latency") or 1.0)
    return found


def contents(folder: Path) -> dict:
    return json.loads((folder / "search.json").read_text())


def test_a_budget_of_latency_is_that_of_the_tables_device(
    config, arguments, table, measured_here, groups, tmp_path, capsys
):
    more = ["--group", "0-1", "--budget", BUDGET, "--samples", "10000", "--latency-table", str(table)]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    assert not measured_here
    found = contents(tmp_path / "out")
    within = {row["arch"] for row in found["candidates"] if BUDGET in row["budgets"]}
    expected = SPACE.table[np.median(LATENCIES) >= LATENCIES]
    assert within == {str(Arch.from_row(row)) for row in expected.tolist()}
    assert [winner["measured"] for winner in found["winners"]] == [{}, {}]
    entry = found["run"]["latency_table"]
    assert (entry["device"], entry["runtime"], entry["threads"]) == ("a board", "a runtime 1.0", None)
    printed = capsys.readouterr().out
    assert f"latency   of {DEVICE}, by {table}\n" in printed
    said = f"atency is that of {DEVICE}, composed of blocks by {table}, there 0.0% off in the median"
    for shown in (printed, (tmp_path / "out" / "report.html").read_text()):
        assert said in shown
        assert "the winners were not measured whole" in shown
    assert "from its blocks" not in printed


def test_memory_is_still_measured_here(config, arguments, table, measured_here, tmp_path, capsys):
    budget = f"{BUDGET} and memory<=1GB"
    more = ["--group", "0-1", "--budget", budget, "--samples", "2", "--latency-table", str(table)]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    assert set(contents(tmp_path / "out")["winners"][1]["measured"]) == {"memory"}
    assert not measured_here


def test_a_dry_run_names_the_device_that_latency_is_of(config, arguments, table, measured_here, tmp_path, capsys):
    more = ["--group", "0-1", "--budget", BUDGET, "--samples", "2", "--dry-run"]
    assert search_det.main(arguments(tmp_path / "out", *more, "--latency-table", str(table))) == 0
    assert f"of {DEVICE}, by {table}" in capsys.readouterr().out
    assert not measured_here
    assert search_det.main(arguments(tmp_path / "out", *more)) == 2  # here every network takes a second
    assert "no network of this space is within" in capsys.readouterr().err


def test_a_search_goes_on_with_the_same_table_alone(config, arguments, table, tmp_path, capsys):
    more = ["--group", "0-1", "--budget", BUDGET, "--samples", "3", "--latency-table", str(table)]
    config.source = FailingImages(3, after=3)
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(tmp_path / "out", *more))
    config.source = FailingImages(3, after=9)
    before = table.read_text()
    replace(latency_table(), device="another board").write(table)
    assert search_det.main(arguments(tmp_path / "out", "--resume", *more)) == 2
    assert "holds a search with another latency table" in capsys.readouterr().err
    table.write_text(before)
    config.source = FailingImages(3, after=9)
    assert search_det.main(arguments(tmp_path / "out", "--resume", *more)) == 0


def test_a_table_that_does_not_fit_the_search_is_refused(config, arguments, table, tmp_path, capsys):
    def refused(*more: str) -> str:
        assert search_det.main(arguments(tmp_path / "out", "--latency-table", str(table), *more)) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    budget = ["--group", "0-1", "--budget", BUDGET]
    assert "no budget bounds latency; add one, such as" in refused()
    assert "and --input-size asks for 96x64" in refused(*budget, "--input-size", "96x64")
    config.runs_at = Resolution((1, 2, 1, 1), (1, 1, 2, 4))
    assert "measure with --strides 1 2 1 1 --dilations 1 1 2 4" in refused(*budget)
    config.runs_at = Resolution()
    latency_table(SearchSpace.micro()).write(table)
    assert "expected that of the supernet" in refused(*budget)
    table.write_text("{}")
    assert "no latency table of format 1" in refused(*budget)
