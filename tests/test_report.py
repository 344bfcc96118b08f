import csv
import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_plugin import SearchSpace, cost
from data_plugin.report import render_report
from data_plugin.search_output import write_csv

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
    }
    return {
        "framework": "mmdet",
        "config": "faster_rcnn_c4_voc",
        "taps": ["C4", "C5"],
        "pareto": False,
        "relation_rows": None,
        "images": {"count": 3, "sha256": "a", "names": ["1.jpg"]},
        "winners": [winner],
        "candidates": candidates,
    }


def in_browser(page: str, script: str, folder: Path) -> tuple[dict, np.ndarray]:
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
    command += ["--window-size=1200,1600", f"--screenshot={folder / 'page.png'}", "--dump-dom"]
    run = subprocess.run([*command, f"file://{folder / 'page.html'}"], capture_output=True, text=True, timeout=120)
    title = run.stdout.split("<title>")[1].split("</title>")[0]
    return json.loads(html.unescape(title)), np.asarray(Image.open(folder / "page.png").convert("RGB")).astype(int)


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
    monkeypatch.setattr("data_plugin.report.ROWS", 10)
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
