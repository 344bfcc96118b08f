import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import in_browser
from samples import SPACE

from data_plugin import SearchSpace, UserError
from data_plugin.search.found import FoundNetwork
from data_plugin.search.report.folder import write_csv
from data_plugin.search.report.html import html_report, html_summary
from data_plugin.search.report.search_report import Candidates, Images, SearchReport, Winner, pick_winner
from data_plugin.search.report.terminal import terminal_report
from data_plugin.search.report.words import cost_label, cost_text, decimals, lead_text
from data_plugin.search.result import SearchResult, TapResult
from data_plugin.space import cost
from data_plugin.space.budget import Budget


def report(count: int = 40, space: SearchSpace | None = None, **changes) -> SearchReport:
    archs = (space or SearchSpace.micro()).sample(count, seed=0)
    scores = np.sort(np.random.default_rng(0).uniform(0.1, 0.2, count))
    table = np.array([arch.row for arch in archs])
    candidates = Candidates(
        archs=archs,
        budgets=[("0.1-0.2",)] * count,
        flops=cost.flops(table),
        params=cost.params(table),
        costs={"flops": cost.flops(table).astype(float), "latency": cost.params(table) * 1e-9},
        scores=scores,
        standard_errors=np.full(count, 0.01),
        sampling_errors=np.full(count, 0.001),
        taps={"C4": scores - 0.05, "C5": np.full(count, 0.05)},
    )
    winner = Winner(
        budget="0.1-0.2",
        arch=archs[0],
        flops=int(candidates.flops[0]),
        params=int(candidates.params[0]),
        costs={quantity: float(values[0]) for quantity, values in candidates.costs.items()},
        score=float(scores[0]),
        standard_error=0.01,
        sampling_error=0.001,
        compared=count,
        runner_up=archs[1],
        lead=0.0012,
        lead_error=0.002,
        not_told_apart=2,
        near=archs[1:3],
        measured={"latency": (float(candidates.costs["latency"][0]), 0.0123)},
        exceeded=["latency"],
        folder="winners/0.1-0.2",
    )
    made = SearchReport(
        config="faster_rcnn_c4_voc",
        framework="mmdet",
        data_root=None,
        taps=("C4", "C5"),
        budgets=["0.1-0.2"],
        pareto=False,
        input_size=None,
        chosen=f"{count} drawn per budget",
        reduction="mean",
        norm="batch",
        precision="float32",
        rows=None,
        entropy=4.5,
        images=Images(names=["1.jpg", "2.jpg", "3.jpg"], sha256="a", batches=3, split=0, most_parts=1),
        winners=[winner],
        candidates=candidates,
        run={"seed": 0, "supernet": {"path": "s.safetensors", "sha256": "b", "method": "mocov2"}},
    )
    return replace(made, **changes)


def test_costs_have_units_and_figures_are_plain_decimals():
    assert decimals(742123.4) == "742100"
    assert decimals(0.0048545) == "0.004855"
    assert decimals(0.00401, 2) == "0.004"
    assert lead_text(report().winners[0]) == "0.0012 ± 0.002"
    assert (cost_label("flops"), cost_label("flops", (96, 64))) == ("GFLOPs", "GFLOPs at 96x64")
    assert (cost_label("latency", (96, 64)), cost_text("latency", 0.0036677)) == ("latency (ms)", "3.67")
    assert cost_text("memory", 3 * 2**20) == "3.0"


def test_what_is_written_is_read_again_and_nothing_is_lost():
    made = report()
    made = replace(made, dropped={made.candidates.archs[5]: (8, 0.2)}, input_size=(96, 64))
    text = json.dumps(made.to_json())
    again = SearchReport.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert again.winners == made.winners
    np.testing.assert_array_equal(again.candidates.scores, made.candidates.scores)
    assert again.dropped == made.dropped


def test_a_folder_without_a_report_of_this_version_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"search\.json cannot be read"):
        SearchReport.read(tmp_path)
    (tmp_path / "search.json").write_text(json.dumps({**report().to_json(), "format": 1}))
    with pytest.raises(UserError, match="of a finished search of this version"):
        SearchReport.read(tmp_path)


def test_a_winner_is_shown_with_its_budgeted_and_its_whole_cost():
    page, winner = html_report(report()), report().winners[0]
    assert f"{winner.costs['latency'] * 1e3:.2f}, whole 12.30" in page
    assert page.count("<th>latency (ms)</th>") == 1
    assert page.count('<th data-sort="">latency (ms)</th>') == 1
    assert "whole (" in terminal_report(report())
    assert "which is not within the budget" in terminal_report(report())


def test_networks_that_are_not_told_apart_from_the_winner_are_named():
    made = report()
    near = [str(arch) for arch in made.winners[0].near]
    for shown in (html_report(made), terminal_report(made), html_summary(made)):
        assert "not told apart from 2 of 39" in shown
        assert all(name in shown for name in near)
    sure = replace(made, winners=[replace(made.winners[0], not_told_apart=0, near=[])])
    alone = replace(
        made,
        winners=[replace(made.winners[0], runner_up=None, lead=None, lead_error=None, not_told_apart=0, near=[])],
    )
    assert "closer than all 39 others" in html_report(sure)
    assert "no other was compared" in html_report(alone)
    assert "it is the only one that was compared" in terminal_report(alone)


def result_of(values: np.ndarray) -> SearchResult:
    """Networks of the tiny space with these divergences (networks, images)."""
    tap = TapResult(np.arange(len(values)), values, np.zeros(len(values)), np.zeros(values.shape[1]))
    names = [str(i) for i in range(values.shape[1])]
    return SearchResult(list(SPACE)[: len(values)], {"C5": tap}, names, ["x"], [1])


def winner_of(result: SearchResult) -> Winner:
    return pick_winner(result, Budget.group("0-1"), result.archs, {"flops": cost.flops}, {})


def test_few_images_need_a_larger_lead():
    for count, sure in ((3, False), (12, True)):
        # A lead of 2.5 standard errors: beyond 95 % of a normal distribution, but not of Student's t with 2 degrees.
        apart = np.resize([-1.0, 0.0, 1.0], count)
        apart = apart / (apart.std(ddof=1) / count**0.5) + 2.5
        assert winner_of(result_of(np.stack([np.zeros(count), apart]))).told_apart is sure


def test_the_runner_up_by_mean_is_not_always_the_hardest_to_tell_apart():
    generator = np.random.default_rng(0)
    base = generator.normal(0, 1, 16)
    steady = base + 0.5 + generator.normal(0, 0.01, 16)  # behind on every image
    wild = base + 0.6 + generator.normal(0, 4, 16)  # further by mean, and closer on many images
    wild += 0.6 - (wild - base).mean()
    winner = winner_of(result_of(np.stack([base, steady, wild])))
    assert winner.runner_up == list(SPACE)[1]
    assert winner.near == [list(SPACE)[2]]
    assert not winner.told_apart


def test_a_winner_is_told_apart_no_oftener_than_the_confidence_says():
    """Among networks that do not differ, a winner that leads them all would be one of chance: 1 in 20 at the most."""
    generator = np.random.default_rng(0)
    sure = [winner_of(result_of(generator.normal(0, 1, (20, 8)))).told_apart for _ in range(100)]
    assert sum(sure) < 12


def test_flops_are_always_drawn_and_say_the_size_that_they_are_of():
    assert html_report(report()).count("<svg") == 3  # FLOPs, latency, choices
    made = report()
    costs = {"latency": made.candidates.costs["latency"]}
    page = html_report(replace(made, candidates=replace(made.candidates, costs=costs)))
    assert page.count("<svg") == 3
    assert "GFLOPs at" not in page
    assert "<th>GFLOPs at 96x64</th>" in html_report(report(input_size=(96, 64)))


@pytest.mark.slow
def test_a_narrow_window_scrolls_tables_and_not_the_page(tmp_path):
    found, _ = in_browser(
        html_report(report()),
        "return {page: document.documentElement.scrollWidth, window: innerWidth,"
        " table: document.getElementById('candidates').offsetWidth};",
        tmp_path,
        width=500,
    )
    assert found["page"] <= found["window"] < found["table"]


@pytest.mark.slow
def test_a_report_of_the_whole_space_is_small_and_opens(tmp_path):
    page = html_report(report(85_293, SearchSpace.data()))
    assert len(page) < 5 * 2**20
    # The script stands last, and a height has the page laid out: the clock, which starts with the page, sees both.
    found, _ = in_browser(
        page,
        "return {rows: document.querySelectorAll('#candidates tbody tr').length, height: document.body.scrollHeight,"
        " plots: document.querySelectorAll('svg').length, ms: performance.now()};",
        tmp_path,
    )
    print(f"{len(page) / 2**20:.1f} MB, laid out {found['ms'] / 1000:.1f} s after it was opened")
    assert found["ms"] > 0
    assert (found["rows"], found["plots"]) == (2_000, 3)
    assert found["height"] > 10 * found["rows"]


def test_a_notebook_shows_what_a_winner_is():
    made = report(input_size=(96, 64))
    winner = replace(made.winners[0], budget="flops<=0.2G", score=0.12345678)
    shown = FoundNetwork(winner, Path("runs/<b>"), made)._repr_html_()
    cells = dict(re.findall("<tr><th>(.*?)</th><td>(.*?)</td></tr>", shown))
    assert cells == {
        "budget": "flops&lt;=0.2G",
        "architecture": str(winner.arch),
        "GFLOPs": f"{winner.flops / 1e9:.3f}",
        "parameters (M)": f"{winner.params / 1e6:.2f}",
        "GFLOPs at 96x64": f"{winner.costs['flops'] / 1e9:.3f}",
        "latency (ms)": f"{winner.costs['latency'] * 1e3:.2f}",
        "divergence per position": "0.1235",
        "certainty": "not told apart from 2 of 39",
        "folder": "runs/&lt;b&gt;",
    }


def test_the_page_says_how_the_candidates_were_chosen():
    assert "40 networks, left of 99 drawn per budget, compared on 3 images" in html_report(
        report(chosen="left of 99 drawn per budget")
    )


@pytest.mark.slow
def test_a_browser_draws_sorts_and_filters(tmp_path):
    made = report()
    found, picture = in_browser(
        html_report(made),
        """
        const table = document.getElementById("candidates");
        const column = i => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[i].dataset.value);
        const heads = table.tHead.rows[0].cells, flops = 2;
        const before = column(flops);
        heads[flops].click(); const ascending = column(flops);
        heads[flops].click(); const descending = column(flops);
        const filter = document.getElementById("filter");
        filter.value = "d2-"; filter.dispatchEvent(new Event("input"));
        const points = document.querySelectorAll("svg use").length;
        return {before, ascending, descending, filtered: column(0), points,
                plots: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width)};
        """,
        tmp_path,
    )
    flops = made.candidates.flops.tolist()
    assert [int(value) for value in found["before"]] == flops
    assert [int(value) for value in found["ascending"]] == sorted(flops)
    assert [int(value) for value in found["descending"]] == sorted(flops, reverse=True)
    assert sorted(found["filtered"]) == sorted(str(arch) for arch in made.candidates.archs if "d2-" in str(arch))
    assert 0 < len(found["filtered"]) < len(flops)
    assert found["points"] >= 2 * len(flops)  # against FLOPs and against latency
    assert all(width > 400 for width in found["plots"])
    for colour in ((0x9F, 0xB0, 0xC3), (0x2C, 0x7A, 0x3F), (0xC0, 0x56, 0x2F)):  # candidates, winner, front
        assert (np.abs(picture - colour).sum(axis=2) < 12).sum() > 20, colour


def test_large_searches_show_the_closest_and_say_so(monkeypatch):
    monkeypatch.setattr("data_plugin.search.report.html.ROWS", 10)
    made = report()
    page = html_report(made)
    assert "The 10 closest of 40" in page
    assert str(made.candidates.archs[9]) in page
    assert str(made.candidates.archs[10]) not in page


def test_what_users_name_cannot_become_markup():
    assert "<script>alert" not in html_report(report(config="<script>alert(1)</script>"))


def test_the_csv_has_every_candidate(tmp_path):
    candidates = report().candidates
    write_csv(tmp_path / "search.csv", candidates)
    with (tmp_path / "search.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["arch"] for row in found] == [str(arch) for arch in candidates.archs]
    assert [float(row["C4"]) for row in found] == candidates.taps["C4"].tolist()
