import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import SPACE
from torch.nn import functional as F

from data_plugin import Arch
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.images.batch import ImageBatch
from data_plugin.images.input_format import InputFormat
from data_plugin.search.memory import FREE_PART, Bound
from data_plugin.search.output import pick_winner
from data_plugin.search.searcher import SearchResult, search
from data_plugin.space import cost
from data_plugin.space.budget import Budget
from data_plugin.supernet.backbone_files import load_backbone
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, load_supernet, save_supernet
from data_plugin.tools import search_det
from data_plugin.utils.progress import progress_over

MIDDLE = sorted(cost.flops(arch) for arch in SPACE)[len(SPACE) // 2] / 1e9
GROUPS = [f"0-{MIDDLE:.6f}", f"{MIDDLE:.6f}-1"]


class Batches(list):
    """Three images, one a batch."""

    def only(self, indices):
        return Batches(self[index] for index in indices)


def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 64, 64, generator=generator) for _ in range(3)]
    return Batches(ImageBatch(image, [(64, 64)], [f"{i}.jpg"]) for i, image in enumerate(images))


@pytest.fixture
def adapter(monkeypatch) -> SimpleNamespace:
    """A framework of three random images, so that search is tested apart from any framework."""
    fake = SimpleNamespace(
        load_config=lambda config, options, data_root: {"options": list(options)},
        input_format=lambda config: InputFormat.imagenet(),
        taps=lambda config: ("C5",),
        strides_and_dilations=lambda config: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
        image_batches=lambda config, count, batch_size, seed: Batches(batches()[:count]),
        write_config=lambda config, arch, weights, path: path.write_text(f"{arch} {weights}"),
    )
    monkeypatch.setattr("data_plugin.search.run.load_adapter", lambda *_: ("mmdet", fake))
    monkeypatch.setattr("data_plugin.search.run.is_installed", lambda name: name == "mmdet")
    return fake


@pytest.fixture(scope="module")
def supernet(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    info = SupernetInfo(SPACE, "mocov2", InputFormat.imagenet())
    save_supernet(path, Supernet(info, DynamicResNet(SPACE), DynamicResNet(SPACE)))
    return path


def arguments(supernet: Path, out: Path, *more: str) -> list[str]:
    always = ["--config", "faster_rcnn_c4_voc", "--supernet", str(supernet), "--out", str(out), "--device", "cpu"]
    groups = [] if "--group" in more else ["--group", *GROUPS]
    samples = [] if {"--exhaustive", "--evolve"} & set(more) else ["--samples", "10"]
    return [*always, *groups, *samples, *more]


def test_writes_the_closest_network_of_every_group(adapter, supernet, tmp_path, capsys):
    out = tmp_path / "out"
    assert search_det.main(arguments(supernet, out)) == 0
    found = json.loads((out / "search.json").read_text())
    loaded = load_supernet(supernet)
    for text, winner in zip(GROUPS, found["winners"], strict=True):
        low, high = (float(bound) * 1e9 for bound in text.split("-"))
        archs = SPACE.sample(
            10, 0, lambda table, low=low, high=high: (cost.flops(table) >= low) & (cost.flops(table) < high)
        )
        result = search(loaded.query, loaded.key, archs, batches(), ["C5"])
        best = min(archs, key=lambda arch: result.scores[result.archs.index(arch)])
        assert Arch.parse(winner["arch"]) == best
        assert winner["score"] == pytest.approx(result.scores.min())
        assert winner["flops"] == cost.flops(best)
        assert low <= winner["flops"] < high
        network = load_backbone(out / winner["folder"])
        assert network.arch == best
        assert torch.equal(network.conv1.weight, loaded.query.conv1.weight[: best.stem])
        config = (out / winner["folder"] / "faster_rcnn_c4_voc.py").read_text()
        assert config == f"{best} {out / winner['folder'] / 'backbone.pth'}"
    assert len(found["candidates"]) == 20
    assert found["images"]["names"] == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(set(row["taps"]) == {"C5"} for row in found["candidates"])
    printed = capsys.readouterr().out
    assert all(winner["arch"] in printed for winner in found["winners"])
    lines = [shlex.split(line) for line in printed.split("fine-tune with:")[1].splitlines() if line]
    configs = [str(out / winner["folder"] / "faster_rcnn_c4_voc.py") for winner in found["winners"]]
    assert [line[line.index("--config") + 1] for line in lines] == configs
    # What is printed runs from any folder; it stops at a wrong option before it loads a framework.
    run = subprocess.run([*lines[0], "--resume", "--eval-only"], cwd=tmp_path, capture_output=True, text=True)
    assert "not allowed with argument" in run.stderr


def test_the_terminal_shows_budgeted_costs_in_their_units(adapter, supernet, tmp_path, capsys):
    long = "flops<=1G and latency<=10s"
    more = ["--group", "0-1", "--budget", long, "memory<=1KB", "--samples", "2", "--input-size", "96x64"]
    assert search_det.main(arguments(supernet, tmp_path / "none", *more)) == 2
    capsys.readouterr()
    more.remove("memory<=1KB")
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("budget "))
    head, group, budget, *rest = lines[start:]
    assert len(head) == len(group) == len(budget)
    assert [name.strip() for name in head.split("  ") if name] == [
        *("budget", "architecture", "GFLOPs", "parameters (M)", "GFLOPs at 96x64", "latency (ms)", "score")
    ]
    assert budget.startswith(f"{long}  d")
    assert any("latency (ms)" in line and "from its blocks" in line and " whole (" in line for line in rest)


def test_a_front_names_one_command_per_budget(adapter, supernet, tmp_path, capsys):
    assert search_det.main(arguments(supernet, tmp_path / "out", "--pareto")) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())["winners"]
    printed = capsys.readouterr().out
    assert len(found) > printed.count("--config") == len(GROUPS)
    for group in GROUPS:
        closest = min((row for row in found if row["budget"] == group), key=lambda row: row["score"])
        assert f"/{closest['folder']}/faster_rcnn_c4_voc.py" in printed


def test_a_whole_network_that_breaks_the_budget_is_called_so(adapter, supernet, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_plugin.search.run.MeasuredCosts.whole", lambda *_: 20.0)
    more = ["--group", "0-1", "--budget", "latency<=10s", "latency<=30s", "--samples", "2"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " whole (" in line]
    assert ["not within the budget" in line for line in lines] == [True, False]


def test_scores_are_those_of_networks_at_the_configs_strides(adapter, supernet, tmp_path):
    """A segmenter at output stride 8 reads other features than the pre-training's at 32."""
    options = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}
    adapter.strides_and_dilations = lambda config: options
    adapter.taps = lambda config: ("C4", "C5")
    more = ["--group", "0-1", "--samples", "6"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["strides_and_dilations"] == json.loads(json.dumps(options))
    loaded = load_supernet(supernet)
    teacher = extract(loaded.key, SPACE.largest, **options).train()
    for row in found["candidates"]:
        arch = Arch.parse(row["arch"])
        assert row["flops"] == cost.flops(arch)
        student = extract(loaded.query, arch, **options).train()
        expected = {"C4": 0.0, "C5": 0.0}
        with torch.no_grad():
            for batch in batches():
                maps = zip(("C4", "C5"), teacher(batch.images)[2:], student(batch.images)[2:], strict=True)
                for tap, theirs, ours in maps:
                    assert theirs.shape[-2:] == (8, 8)
                    expected[tap] += relation_distance(theirs[0].flatten(1), ours[0].flatten(1)) / 3
        assert row["taps"] == pytest.approx(expected, rel=1e-4)
    network = load_backbone(tmp_path / "out" / found["winners"][0]["folder"])
    # The winner's statistics are those of its features at these strides.
    best = extract(loaded.query, network.arch, **options)
    calibrate([best], [batch.images for batch in batches()])
    for name, value in best.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def relation_distance(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """Eq. 4 and 5 of DATA with whole matrices, on maps (C, HW)."""
    target, logits = ((F.normalize(m, dim=0).T @ F.normalize(m, dim=0)) / 0.2 for m in (teacher, student))
    return float(-(target.softmax(1) * logits.log_softmax(1)).sum())


def test_the_report_names_every_candidate_and_loads_nothing(adapter, supernet, tmp_path):
    search_det.main(arguments(supernet, tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    candidates = json.loads((tmp_path / "out" / "search.json").read_text())["candidates"]
    assert all(row["arch"] in page for row in candidates)
    assert "<svg" in page
    assert not any(word in page for word in ("src=", "<link", "@import"))


def test_budgets_combine_and_count_flops_at_the_given_size(adapter, supernet, tmp_path):
    flops, params = ([f(arch) for arch in SPACE] for f in (lambda a: cost.flops(a, (96, 64)), cost.params))
    most_flops, most_params = sorted(flops)[len(flops) // 2], sorted(params)[len(params) // 2]
    text = f"flops<={most_flops} and params<={most_params}"
    more = ["--group", "0-1", "--budget", text, "--input-size", "96x64", "--samples", "1000"]
    with pytest.warns(UserWarning, match="only"):
        assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    rows = json.loads((tmp_path / "out" / "search.json").read_text())["candidates"]
    found = {row["arch"] for row in rows if text in row["budgets"]}
    archs = zip(SPACE, flops, params, strict=True)
    assert found == {str(arch) for arch, f, p in archs if f <= most_flops and p <= most_params}
    assert 0 < len(found) < len(rows) == len(SPACE)


def test_a_latency_budget_is_measured_and_checked_on_whole_networks(adapter, supernet, tmp_path, capsys):
    more = ["--group", "0-1", "--budget", "latency<=10s and memory<=1GB", "--samples", "2"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    group, winner = json.loads((tmp_path / "out" / "search.json").read_text())["winners"]
    assert group["measured"] == {}
    assert set(winner["measured"]) == {"latency", "memory"}
    assert all(cost > 0 for pair in winner["measured"].values() for cost in pair)
    assert "latency" in capsys.readouterr().out
    more[3] = "latency<=1us"
    assert search_det.main(arguments(supernet, tmp_path / "none", *more)) == 2
    assert "no network of this space is within latency<=1us" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_whole_front_is_an_answer(adapter, supernet, tmp_path, capsys):
    budgets = ["flops<=1G", "params<=1M and latency<=10s"]
    more = ["--group", "0-1", "--budget", *budgets, "--samples", "12", "--pareto"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    for budget, quantities in (("0-1", ["flops"]), ("flops<=1G", ["flops"]), (budgets[1], ["params", "latency"])):
        rows = {row["arch"]: row for row in found["candidates"] if budget in row["budgets"]}

        def beaten(row, rows=rows, quantities=quantities):
            others = [other for other in rows.values() if other is not row and other["score"] <= row["score"]]
            return any(all(other["costs"][q] <= row["costs"][q] for q in quantities) for other in others)

        members = [winner for winner in found["winners"] if winner["budget"] == budget]
        assert {winner["arch"] for winner in members} == {arch for arch, row in rows.items() if not beaten(row)}
        assert len(members) > 1
        for winner in members:
            row = rows[winner["arch"]]
            assert winner["costs"] == pytest.approx({quantity: row["costs"][quantity] for quantity in quantities})
            folder = tmp_path / "out" / winner["folder"]
            assert str(load_backbone(folder).arch) == winner["arch"]
            assert (folder / "faster_rcnn_c4_voc.py").is_file()
            assert winner["arch"] in printed
            cheaper = [r for r in rows.values() if all(r["costs"][q] <= row["costs"][q] for q in quantities)]
            assert winner["candidates"] == len(cheaper)
            if len(cheaper) > 1:
                assert winner["margin"] >= 0
    assert "Pareto front</h2>" in (tmp_path / "out" / "report.html").read_text()
    assert search_det.main(arguments(supernet, tmp_path / "none", "--pareto", "--halve", "0.9")) == 2
    assert "--pareto or with --halve" in capsys.readouterr().err


def test_memory_precision_and_drawn_rows_are_stated(adapter, supernet, tmp_path, capsys):
    adapter.taps = lambda config: ("C2",)
    pair = ImageBatch(torch.cat([batch.images for batch in batches()[:2]]), [(64, 64)] * 2, ["a.jpg", "b.jpg"])
    adapter.image_batches = lambda config, count, batch_size, seed: Batches([pair, *batches()[2:]])
    loaded = load_supernet(supernet)
    bound = Bound(0, loaded.query, loaded.key, ("C2",), 40)
    size = (bound.foreseen(1, (64, 64)) + bound.foreseen(2, (64, 64))) // 2
    more = ["--max-memory", f"{size}B", "--precision", "bfloat16", "--relation-rows", "40"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert (found["max_memory"], found["precision"], found["relation_rows"]) == (size, "bfloat16", 40)
    assert found["split"] == {"batches": 2, "split": 1, "most_parts": 2, "batch_norm_statistics": "of the parts"}
    assert all(row["sampling_error"] > 0 for row in found["candidates"])
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "40 drawn rows" in text
        assert "of the parts" in text


def test_exhaustive_compares_every_network_that_fits(adapter, supernet, tmp_path):
    assert search_det.main(arguments(supernet, tmp_path / "out", "--exhaustive")) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert {row["arch"] for row in found["candidates"]} == {str(arch) for arch in SPACE}
    best = min(found["candidates"], key=lambda row: row["score"])
    assert best["arch"] in {winner["arch"] for winner in found["winners"]}


def test_halving_finds_a_winner_and_says_what_it_dropped(adapter, supernet, tmp_path, capsys):
    many = Batches(batches() * 8)
    adapter.image_batches = lambda config, count, batch_size, seed: many
    assert search_det.main(arguments(supernet, tmp_path / "out", "--halve", "0.6")) == 0
    printed = capsys.readouterr().out
    assert search_det.main(arguments(supernet, tmp_path / "all")) == 0
    halved, whole = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("out", "all"))
    kept, dropped = ({row["arch"] for row in rows} for rows in (halved["candidates"], halved["dropped"]["networks"]))
    assert kept | dropped == {row["arch"] for row in whole["candidates"]}
    assert not kept & dropped
    assert halved["dropped"]["count"] == len(dropped) > 0
    assert halved["dropped"]["confidence"] == 0.6
    assert f"dropped before they saw all images: {len(dropped)} networks" in printed
    assert all(row["images"] < 24 for row in halved["dropped"]["networks"])
    scores = {row["arch"]: row["score"] for row in whole["candidates"]}
    assert all(row["score"] == pytest.approx(scores[row["arch"]]) for row in halved["candidates"])


def test_evolution_stays_within_every_budget_and_resumes(adapter, supernet, tmp_path):
    more = ["--evolve", "--population", "6", "--generations", "3"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    whole = (tmp_path / "out" / "search.json").read_text()
    found = json.loads(whole)
    for text, winner in zip(GROUPS, found["winners"], strict=True):
        low, high = (float(bound) * 1e9 for bound in text.split("-"))
        rows = [row for row in found["candidates"] if text in row["budgets"]]
        assert 6 < len(rows) <= 24
        assert all(low <= row["flops"] < high for row in rows)
        assert winner["score"] == min(row["score"] for row in rows)

    read: list[int] = []

    class Dying(Batches):
        def only(self, indices):
            for index in indices:
                if len(read) == 8:
                    raise KeyboardInterrupt
                read.append(index)
                yield self[index]

    adapter.image_batches = lambda config, count, batch_size, seed: Dying(batches())
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(supernet, tmp_path / "killed", *more))
    adapter.image_batches = lambda config, count, batch_size, seed: batches()
    assert search_det.main(arguments(supernet, tmp_path / "killed", "--resume", *more)) == 0
    assert (tmp_path / "killed" / "search.json").read_text() == whole


def test_without_a_budget_it_says_how_to_give_one(adapter, supernet, tmp_path, capsys):
    without = arguments(supernet, tmp_path / "out", "--group")[:-1]
    assert search_det.main([word for word in without if word != "--group"]) == 2
    assert "--budget" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_search(adapter, supernet, tmp_path):
    contents = []
    for name in ("a", "b"):
        search_det.main(arguments(supernet, tmp_path / name))
        contents.append((tmp_path / name / "search.json").read_text())
    assert contents[0] == contents[1]


def test_a_killed_search_resumes_to_the_same_result(adapter, supernet, tmp_path, capsys):
    assert search_det.main(arguments(supernet, tmp_path / "whole")) == 0
    read: list[str] = []

    class Dying(Batches):
        def only(self, indices):
            for index in indices:
                if len(read) == 2:
                    raise KeyboardInterrupt
                read.append(self[index].names[0])
                yield self[index]

    adapter.image_batches = lambda config, count, batch_size, seed: Dying(batches())
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(supernet, tmp_path / "out"))
    assert read == ["0.jpg", "1.jpg"]

    assert search_det.main(arguments(supernet, tmp_path / "out")) == 2
    assert "add --resume or --overwrite" in capsys.readouterr().err
    assert search_det.main(arguments(supernet, tmp_path / "out", "--resume", "--seed", "1")) == 2
    assert "another seed (0, now 1)" in capsys.readouterr().err

    read.clear()
    assert search_det.main(arguments(supernet, tmp_path / "out", "--resume")) == 0
    assert read == ["2.jpg"]
    whole, resumed = ((tmp_path / name / "search.json").read_text() for name in ("whole", "out"))
    assert whole == resumed
    assert search_det.main(arguments(supernet, tmp_path / "out", "--resume")) == 2
    assert "holds no unfinished search" in capsys.readouterr().err


def test_a_resumed_search_splits_batches_as_it_did_whatever_is_free_now(adapter, supernet, tmp_path, monkeypatch):
    loaded = load_supernet(supernet)
    bound = Bound(0, loaded.query, loaded.key, ("C5",))
    tight = (bound.foreseen(1, (64, 64)) + bound.foreseen(2, (64, 64))) / 2 / FREE_PART
    pairs = Batches(
        ImageBatch(torch.cat([a.images, b.images]), [(64, 64)] * 2, [*a.names, *b.names])
        for a, b in (batches()[:2], batches()[1:])
    )
    adapter.strides_and_dilations = lambda config: {}
    adapter.image_batches = lambda *_: pairs
    monkeypatch.setattr("data_plugin.search.run.free_memory", lambda device: tight)
    assert search_det.main(arguments(supernet, tmp_path / "whole")) == 0

    class Dying(Batches):
        def only(self, indices):
            yield self[0]
            raise KeyboardInterrupt

    adapter.image_batches = lambda *_: Dying(pairs)
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(supernet, tmp_path / "out"))
    adapter.image_batches = lambda *_: pairs
    monkeypatch.setattr("data_plugin.search.run.free_memory", lambda device: 100 * tight)
    assert search_det.main(arguments(supernet, tmp_path / "out", "--resume")) == 0
    whole, resumed = ((tmp_path / name / "search.json").read_text() for name in ("whole", "out"))
    assert json.loads(whole)["split"]["split"] == 2
    assert whole == resumed


@pytest.mark.parametrize("killed_at", [0, 2])
def test_a_search_may_be_killed_without_warning(adapter, supernet, tmp_path, killed_at):
    assert search_det.main(arguments(supernet, tmp_path / "whole")) == 0

    class Killed(Batches):
        def only(self, indices):
            for index in indices:
                if index == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield self[index]

    def search() -> None:
        torch.set_num_threads(1)  # a forked process has lost the threads of its parent
        adapter.image_batches = lambda config, count, batch_size, seed: Killed(batches())
        search_det.main(arguments(supernet, tmp_path / "killed"))

    process = multiprocessing.get_context("fork").Process(target=search)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "search.json").exists()
    assert search_det.main(arguments(supernet, tmp_path / "killed", "--resume")) == 0
    whole, resumed = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("whole", "killed"))
    assert [row["arch"] for row in resumed["candidates"]] == [row["arch"] for row in whole["candidates"]]
    for one, other in zip(resumed["candidates"], whole["candidates"], strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-6)


def test_batches_of_a_search_that_was_being_replaced_are_not_gone_on_with(adapter, supernet, tmp_path):
    out = tmp_path / "out"
    assert search_det.main(arguments(supernet, out)) == 0
    whole = (out / "search.json").read_text()
    stale = out / "partial" / "batch-000000.npz"
    stale.parent.mkdir()
    stale.write_bytes(b"of another search, whose run.json is gone")
    assert search_det.main(arguments(supernet, out, "--resume")) == 0
    assert (out / "search.json").read_text() == whole


@pytest.mark.parametrize("more", [[], ["--halve", "0.6"], ["--group", "0-0.02", "0.0-0.020"]])
def test_progress_ends_at_its_total(adapter, supernet, tmp_path, monkeypatch, more):
    seen = []

    @contextmanager
    def recorded(total, what):
        counts = []
        yield counts.append
        seen.append((sum(counts), total))

    monkeypatch.setattr("data_plugin.search.run.progress_over", recorded)
    images = torch.randn(16, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    adapter.image_batches = lambda *_: Batches(ImageBatch(im, [(64, 64)], [f"{i}"]) for i, im in enumerate(images))
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    ((done, total),) = seen
    assert done == pytest.approx(total)
    if more[:1] == ["--halve"]:
        assert json.loads((tmp_path / "out" / "search.json").read_text())["dropped"]["count"] > 0


def test_a_log_file_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr("data_plugin.utils.progress.LOGGED_EVERY", 0.0)
    with progress_over(10, "images") as advance:
        advance(4)
        advance(6)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("4 of 10 images, 0:00:00 spent, about 0:00:0")
    assert last.startswith("10 of 10 images")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--group", "3-4"], "no network of this space is within 3-4"),
        (["--group", "4-3"], "no room"),
        (["--group", "three"], "'three' is not a group"),
        (["--taps", "C9"], "C9 is no tap"),
        (["--supernet", "none.safetensors"], "none.safetensors is not a file"),
        (["--group", "0-1", "--budget", "params<=1"], "no network of this space is within params<=1"),
        (["--group", "0-1", "--budget", "speed<=1"], "'speed' in 'speed<=1' cannot be bounded"),
        (["--group", "0-1", "--all-groups"], "no network of this space is within 1 to 8 GFLOPs"),
        (["--samples", "0"], "0 networks were asked for"),
        (["--device", "tpu7"], "tpu7"),
        (["--out", f"{__file__}/out"], "cannot be made in"),
        (["--population", "8"], "expected --evolve with it"),
        (["--max-memory", "lots"], "'lots' is not an amount of memory"),
        (["--max-memory", "0.1MB"], "raise --max-memory"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(adapter, supernet, tmp_path, capsys, more, message):
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--relation-rows", "1"], "'1' was given; expected a number of at least 2"),
        (["--halve", "2"], "'2' was given; expected more than 0.5 and less than 1"),
        (["--halve", "most"], "'most' was given; expected more than 0.5 and less than 1"),
        (["--seed", "-1"], "'-1' was given; expected a number of at least 0"),
        (["--images", "many"], "'many' was given; expected a number of at least 1, or all"),
        (["--images", "0"], "'0' was given; expected a number of at least 1, or all"),
        (["--input-size", "0"], "'0' was given; expected pixels such as 224, or HxW such as 800x1333"),
        (["--input-size", "3x"], "'3x' is no size"),
        (["--input-size", "ax3"], "'a' was given; expected pixels"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(supernet, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        search_det.main(arguments(supernet, tmp_path / "out", *more))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_evolution_is_not_said_to_draw_samples(adapter, supernet, tmp_path):
    more = ["--evolve", "--population", "4", "--generations", "1"]
    assert search_det.main(arguments(supernet, tmp_path / "out", *more)) == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["samples"] is None
    assert (found["evolve"]["population"], found["evolve"]["generations"]) == (4, 1)


def test_few_images_need_a_larger_lead():
    archs = list(SPACE)[:2]
    for count, sure in ((3, False), (12, True)):
        # A lead of three standard errors: beyond 95 % of a normal distribution, but not of Student's t with 2 degrees.
        apart = np.resize([-1.0, 0.0, 1.0], count)
        apart = apart / (apart.std(ddof=1) / count**0.5) + 3
        distances = np.stack([np.zeros(count), apart])[None]
        names = [str(i) for i in range(count)]
        result = SearchResult(archs, ["C5"], distances, names, "", np.zeros((1, 2)), [1] * count)
        costs = {"flops": cost.flops}
        assert pick_winner(result, Budget.group("0-1"), archs, costs, lambda *_: (1.0, 1.0)).distinguishable is sure


def test_a_config_of_another_normalisation_is_refused(adapter, supernet, tmp_path, capsys):
    adapter.input_format = lambda config: InputFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert search_det.main(arguments(supernet, tmp_path / "out")) == 2
    assert "BGR with mean 103.53/116.28/123.675 and std 1/1/1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_output_that_holds_something_is_kept_unless_told(adapter, supernet, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    assert search_det.main(arguments(supernet, tmp_path / "out")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "precious").exists()
    assert search_det.main(arguments(supernet, tmp_path / "out", "--overwrite")) == 0
    assert not (tmp_path / "out" / "precious").exists()


def test_an_overwriting_search_that_was_killed_goes_on(adapter, supernet, tmp_path, capsys):
    """Beside the unfinished search there is still what it is to replace."""
    assert search_det.main(arguments(supernet, tmp_path / "out")) == 0

    class Dying(Batches):
        def only(self, indices):
            for index in indices:
                if index == 2:
                    raise KeyboardInterrupt
                yield self[index]

    adapter.image_batches = lambda config, count, batch_size, seed: Dying(batches())
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(supernet, tmp_path / "out", "--overwrite", "--seed", "1"))
    assert search_det.main(arguments(supernet, tmp_path / "out", "--seed", "1")) == 2
    assert "add --resume or --overwrite" in capsys.readouterr().err
    adapter.image_batches = lambda config, count, batch_size, seed: batches()
    assert search_det.main(arguments(supernet, tmp_path / "out", "--seed", "1", "--resume")) == 0
    assert json.loads((tmp_path / "out" / "search.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_search_reads_is_not_overwritten(adapter, supernet, tmp_path, capsys):
    held = tmp_path / "runs" / "supernet.safetensors"
    held.parent.mkdir()
    shutil.copy(supernet, held)
    assert search_det.main(arguments(held, tmp_path / "runs", "--overwrite")) == 2
    assert "would delete the supernet" in capsys.readouterr().err
    assert held.is_file()


def test_the_folder_that_one_is_in_is_not_replaced(adapter, supernet, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (Path("."), Path("..")):
        assert search_det.main(arguments(supernet, out, "--overwrite")) == 2
        assert "while you are in it" in capsys.readouterr().err
    assert search_det.main(arguments(supernet, Path("out"))) == 0
    assert Path("out/search.json").is_file()


def test_a_failure_while_writing_leaves_only_what_resume_needs(adapter, supernet, tmp_path):
    def full_disk(config, arch, weights, path):
        path.write_text("half")
        raise OSError("No space left on device")

    whole, adapter.write_config = adapter.write_config, full_disk
    with pytest.raises(OSError, match="No space"):
        search_det.main(arguments(supernet, tmp_path / "out"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["out", "partial"]
    adapter.write_config = whole
    assert search_det.main(arguments(supernet, tmp_path / "out", "--resume")) == 0
    assert not (tmp_path / "out" / "partial").exists()


def test_a_winner_that_does_not_lead_is_called_so(adapter, supernet, tmp_path, capsys):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    adapter.image_batches = lambda config, count, batch_size, seed: Batches(batches()[:1])
    search_det.main(arguments(supernet, tmp_path / "out"))
    winner = json.loads((tmp_path / "out" / "search.json").read_text())["winners"][0]
    assert winner["standard_error"] is None
    assert winner["distinguishable"] is False
    assert "not distinguishable" in capsys.readouterr().out


def test_an_unknown_framework_is_named(supernet, tmp_path, capsys):
    assert search_det.main(arguments(supernet, tmp_path / "out", "--framework", "keras")) == 2
    assert "'keras' is not a framework here" in capsys.readouterr().err


def test_a_framework_that_is_not_installed_says_what_to_install(supernet, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_plugin.utils.extras.is_installed", lambda name: False)
    assert search_det.main(arguments(supernet, tmp_path / "out", "--framework", "mmdet")) == 2
    assert "install it with: pip install" in capsys.readouterr().err
    assert search_det.main(arguments(supernet, tmp_path / "out")) == 2
    assert "none of detectron2, mmdet is installed" in capsys.readouterr().err
