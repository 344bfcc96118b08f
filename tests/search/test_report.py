import csv
import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_plugin import SearchSpace
from data_plugin.search.output import write_csv
from data_plugin.search.report.html import cost_label, cost_text, render_report, with_error
from data_plugin.space import cost

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def search_contents(count: int = 40) -> dict:
    archs = SearchSpace.micro().sample(count, seed=0)
    scores = np.random.default_rng(0).uniform(5, 6, count)
    candidates = [
        {
            "arch": str(arch),
            "budgets": ["0.1-0.2"],
            "flops": cost.flops(arch),
            "params": cost.params(arch),
            "costs": {"flops": cost.flops(arch), "latency": cost.params(arch) * 1e-9},
            "sampling_error": 0.001,
            "score": float(score),
            "standard_error": 0.01,
            "taps": {"C4": float(score) - 1, "C5": 1.0},
        }
        for arch, score in zip(archs, scores, strict=True)
    ]
    candidates.sort(key=lambda row: row["score"])
    best = candidates[0]
    winner = {
        **{key: best[key] for key in ("arch", "flops", "params", "score", "standard_error")},
        **{"budget": "0.1-0.2", "margin": 0.1, "margin_error": 0.2, "candidates": count, "distinguishable": False},
        **{"costs": dict(best["costs"]), "measured": {"latency": [best["costs"]["latency"], 0.0123]}},
    }
    return {
        "framework": "mmdet",
        "config": "faster_rcnn_c4_voc",
        "taps": ["C4", "C5"],
        "pareto": False,
        "relation_rows": None,
        **{"input_size": None, "samples": count, "evolve": None, "halve": None},
        "images": {"count": 3, "sha256": "a", "names": ["1.jpg"]},
        "winners": [winner],
        "candidates": candidates,
    }


def in_browser(page: str, script: str, folder: Path, width: int = 1200) -> tuple[dict, np.ndarray]:
    """What a script returns in a real browser that shows the page, and the picture that the browser drew."""
    if BROWSER is None:
        pytest.skip("needs a browser: no chromium is installed")
    collect = f"<script>document.title = JSON.stringify((() => {{ {script} }})());</script></body>"
    (folder / "page.html").write_text(page.replace("</body>", collect))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [f"--window-size={width},1600", f"--screenshot={folder / 'page.png'}", "--dump-dom"]
    run = subprocess.run([*command, f"file://{folder / 'page.html'}"], capture_output=True, text=True, timeout=120)
    title = run.stdout.split("<title>")[1].split("</title>")[0]
    return json.loads(html.unescape(title)), np.asarray(Image.open(folder / "page.png").convert("RGB")).astype(int)


def test_costs_have_units_and_errors_are_plain_decimals():
    assert with_error(742123.4, 3021.0) == "742123 ± 3000"
    assert with_error(5526.2243, 200.9) == "5526.22 ± 200"
    assert with_error(0.0048545, 0.00401) == "0.0048545 ± 0.004"
    assert with_error(1.5, None) == "1.5"
    assert (cost_label("flops"), cost_label("flops", (96, 64))) == ("GFLOPs", "GFLOPs at 96x64")
    assert (cost_label("latency", (96, 64)), cost_text("latency", 0.0036677)) == ("latency (ms)", "3.67")
    assert cost_text("memory", 3 * 2**20) == "3.0"


def test_a_winner_is_shown_with_its_budgeted_and_its_whole_cost():
    page = render_report(search_contents())
    winner = search_contents()["winners"][0]
    assert f"{winner['costs']['latency'] * 1e3:.2f}, whole 12.30" in page
    assert page.count("<th>latency (ms)</th>") == 1
    assert page.count('<th data-sort="">latency (ms)</th>') == 1


def test_certainty_is_said_of_those_with_a_runner_up():
    contents = search_contents()
    (winner,) = contents["winners"]
    assert "Not distinguishable from the runner-up on these images: 0.1-0.2." in render_report(contents)
    winner["distinguishable"] = True
    assert "Every one leads its runner-up, at 95 % confidence" in render_report(contents)
    winner.update(margin=None, margin_error=None, distinguishable=False)
    assert "There was no runner-up" in render_report(contents)


def test_flops_are_always_drawn_and_say_the_size_that_they_are_of():
    contents = search_contents()
    assert render_report(contents).count("<svg") == 3  # FLOPs, latency, choices
    for row in [*contents["candidates"], *contents["winners"]]:
        del row["costs"]["flops"]
    assert render_report(contents).count("<svg") == 3
    assert "GFLOPs at" not in render_report(contents)
    contents = search_contents() | {"input_size": [96, 64]}
    assert "<th>GFLOPs at 96x64</th>" in render_report(contents)


@pytest.mark.slow
def test_a_narrow_window_scrolls_tables_and_not_the_page(tmp_path):
    found, _ = in_browser(
        render_report(search_contents()),
        "return {page: document.documentElement.scrollWidth, window: innerWidth,"
        " table: document.getElementById('candidates').offsetWidth};",
        tmp_path,
        width=500,
    )
    assert found["page"] <= found["window"] < found["table"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "40 drawn per budget"),
        ({"samples": None}, "all within the budgets"),
        ({"halve": 0.9}, "left of 40 drawn per budget"),
        ({"samples": None, "evolve": {"population": 8}}, "found by evolution"),
    ],
)
def test_the_page_says_how_the_candidates_were_chosen(changed, said):
    assert f"40 networks, {said}, compared on 3 images" in render_report(search_contents() | changed)


@pytest.mark.slow
def test_a_browser_draws_sorts_and_filters(tmp_path):
    contents = search_contents()
    found, picture = in_browser(
        render_report(contents),
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
    flops = [row["flops"] for row in contents["candidates"]]
    assert [int(value) for value in found["before"]] == flops
    assert [int(value) for value in found["ascending"]] == sorted(flops)
    assert [int(value) for value in found["descending"]] == sorted(flops, reverse=True)
    assert sorted(found["filtered"]) == sorted(r["arch"] for r in contents["candidates"] if "d2-" in r["arch"])
    assert 0 < len(found["filtered"]) < len(flops)
    assert found["points"] >= 2 * len(flops)  # against FLOPs and against latency
    assert all(width > 400 for width in found["plots"])
    for colour in ((0x9F, 0xB0, 0xC3), (0x2C, 0x7A, 0x3F), (0xC0, 0x56, 0x2F)):  # candidates, winner, front
        assert (np.abs(picture - colour).sum(axis=2) < 12).sum() > 20, colour


def test_large_searches_show_the_closest_and_say_so(monkeypatch):
    monkeypatch.setattr("data_plugin.search.report.html.ROWS", 10)
    contents = search_contents()
    page = render_report(contents)
    assert "The 10 closest of 40" in page
    assert contents["candidates"][9]["arch"] in page
    assert contents["candidates"][10]["arch"] not in page


def test_what_users_name_cannot_become_markup():
    contents = search_contents()
    contents["config"] = "<script>alert(1)</script>"
    assert "<script>alert" not in render_report(contents)


def test_the_csv_has_every_candidate(tmp_path):
    rows = search_contents()["candidates"]
    write_csv(tmp_path / "search.csv", rows)
    with (tmp_path / "search.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["arch"] for row in found] == [row["arch"] for row in rows]
    assert [float(row["C4"]) for row in found] == [row["taps"]["C4"] for row in rows]
