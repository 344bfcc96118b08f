import hashlib
import itertools
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from samples import SPACE, FailingImages, RandomImages
from torch.nn import functional as F

from data_plugin import Arch, SearchSpace, search_supernet
from data_plugin.backbones import extract
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.images.batch import ImageBatches, LoadedImage
from data_plugin.images.input_format import InputFormat
from data_plugin.search.memory import Walk
from data_plugin.search.searcher import Searcher
from data_plugin.space import cost
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools import convert_checkpoint, search_det

pytestmark = pytest.mark.filterwarnings("ignore:256 images were asked for")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Read latencies once, and do not draw the plot that takes longest, which ``test_report.py`` looks at."""
    monkeypatch.setattr("data_plugin.space.runtimes.LEAST", 1)
    monkeypatch.setattr("data_plugin.space.runtimes.ENOUGH", 0.0)
    monkeypatch.setattr("data_plugin.search.report.html.choice_plot", lambda report: "")


def contents(folder: Path) -> dict:
    return json.loads((folder / "search.json").read_text())


def same_batches(found: dict, source: RandomImages) -> ImageBatches:
    """The batches of one image each that a search went through."""
    return ImageBatches(source, [[source.names.index(name)] for name in found["images"]["names"]])


def test_writes_the_closest_network_of_every_group(config, supernet_file, arguments, groups, tmp_path, capsys):
    out = tmp_path / "out"
    assert search_det.main(arguments(out)) == 0
    found = contents(out)
    loaded = load_supernet(supernet_file)
    for text, winner in zip(groups, found["winners"], strict=True):
        low, high = (float(bound) * 1e9 for bound in text.split("-"))
        archs = SPACE.sample(
            10, 0, lambda table, low=low, high=high: (cost.flops(table) >= low) & (cost.flops(table) < high)
        )
        result = Searcher(loaded, ["C5"]).measure(archs, same_batches(found, config.source))
        best = result.archs[result.scores.argmin()]
        assert Arch.parse(winner["arch"]) == best
        assert winner["score"] == pytest.approx(result.scores.min(), rel=1e-4)
        assert winner["flops"] == cost.flops(best)
        assert low <= winner["flops"] < high
        network = DATAResNet.from_pretrained(out / winner["folder"])
        assert network.arch == best
        assert torch.equal(network.conv1.weight, loaded.query.conv1.weight[: best.stem])
        written = (out / winner["folder"] / "faster_rcnn_c4_voc.py").read_text()
        assert written == f"{best} {out / winner['folder'] / 'backbone.pth'}"
    assert len(found["candidates"]) == 20
    assert sorted(found["images"]["names"]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(set(row["taps"]) == {"C5"} for row in found["candidates"])
    printed = capsys.readouterr().out
    assert all(winner["arch"] in printed for winner in found["winners"])
    below = printed.split("fine-tune with:\n")[1].splitlines()
    lines = [shlex.split(line) for line in itertools.takewhile(lambda line: line.startswith("  "), below)]
    assert shlex.split(below[-1])[-4:] == ["--search", str(out), "--finetune", "N"]
    configs = [str(out / winner["folder"] / "faster_rcnn_c4_voc.py") for winner in found["winners"]]
    assert [line[line.index("--config") + 1] for line in lines] == configs
    # What is printed runs from any folder; it stops at a wrong option before it loads a framework.
    run = subprocess.run([*lines[0], "--resume", "--eval-only"], cwd=tmp_path, capture_output=True, text=True)
    assert "not allowed with argument" in run.stderr


def test_the_shipped_supernet_goes_by_its_name_and_what_is_shown_says_that_labels_were_seen(
    config, shipped, arguments, tmp_path, capsys
):
    assert search_det.main(arguments(tmp_path / "out", "--samples", "3", supernet="shipped")) == 0
    shown = "shipped, trained with distill; a teacher of its weights saw labels, so they are not self-supervised"
    assert f"supernet: {shown}\n" in capsys.readouterr().out
    assert f"The supernet is {shown}." in (tmp_path / "out" / "report.html").read_text()
    entry = contents(tmp_path / "out")["run"]["supernet"]
    assert entry["path"] == "shipped"
    assert entry["sha256"] == hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert entry["saw_labels"] is True
    again = search_supernet("shipped", "faster_rcnn_c4_voc", out=tmp_path / "again", budget="flops<=1G", device="cpu")
    assert again.report.run["supernet"] == entry

    shipped.write_bytes(shipped.read_bytes()[:-1] + b"\x01")
    assert search_det.main(arguments(tmp_path / "changed", supernet="shipped")) == 2
    assert capsys.readouterr().err.endswith("not those that its hash was made of; install data_plugin again\n")
    shipped.unlink()
    assert search_det.main([*arguments(tmp_path / "missing", supernet="shipped"), "--overwrite"]) == 2
    assert "is missing, the supernet that comes with the package" in capsys.readouterr().err
    assert not (tmp_path / "changed").exists()


@pytest.mark.filterwarnings("ignore:10 networks were asked for")
def test_a_network_of_others_is_the_only_candidate(config, arguments, tmp_path):
    arch = Arch(5, (6, 7, 8, 8), (1, 2, 1, 1))
    source = DATAResNet(arch)
    weights = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "r.pth")
    (tmp_path / "space.json").write_text(json.dumps(SearchSpace.of(arch).to_json()))
    supernet = tmp_path / "supernet.safetensors"
    names = [str(tmp_path / name) for name in ("r.pth", "space.json", "supernet.safetensors")]
    assert convert_checkpoint.main(["import", names[0], "--space", names[1], "--out", names[2]]) == 0
    out = tmp_path / "out"
    assert search_det.main(arguments(out, "--group", "0-1", supernet=supernet)) == 0
    found = contents(out)
    assert [row["arch"] for row in found["candidates"]] == [str(arch)]
    (winner,) = found["winners"]
    weights = DATAResNet.from_pretrained(out / winner["folder"]).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in source.named_parameters())


def test_the_terminal_shows_budgeted_costs_in_their_units(config, arguments, tmp_path, capsys):
    long = "flops<=1G and latency<=10s"
    more = ["--group", "0-1", "--budget", long, "memory<=1KB", "--samples", "2", "--input-size", "96x64"]
    assert search_det.main(arguments(tmp_path / "none", *more)) == 2
    capsys.readouterr()
    more.remove("memory<=1KB")
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("budget "))
    head, group, budget, *rest = lines[start:]
    assert len(head) == len(group) == len(budget)
    assert [name.strip() for name in head.split("  ") if name] == [
        *("budget", "architecture", "GFLOPs", "parameters (M)", "GFLOPs at 96x64", "latency (ms)"),
        "divergence per position",
    ]
    assert budget.startswith(f"{long}  d")
    assert any("latency (ms)" in line and "from its blocks" in line and " whole (" in line for line in rest)


def test_a_front_names_one_command_per_budget(config, arguments, groups, tmp_path, capsys):
    assert search_det.main(arguments(tmp_path / "out", "--pareto")) == 0
    found = contents(tmp_path / "out")["winners"]
    printed = capsys.readouterr().out
    assert len(found) > printed.count("--config") == len(groups)
    for group in groups:
        closest = min((row for row in found if row["budget"] == group), key=lambda row: row["score"])
        assert f"/{closest['folder']}/faster_rcnn_c4_voc.py" in printed


def test_a_whole_network_that_breaks_the_budget_is_called_so(config, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_plugin.search.run.MeasuredCosts.whole", lambda *_: 20.0)
    more = ["--group", "0-1", "--budget", "latency<=10s", "latency<=30s", "--samples", "2"]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " whole (" in line]
    assert ["not within the budget" in line for line in lines] == [True, False]


def test_scores_are_those_of_networks_at_the_configs_strides(config, supernet_file, arguments, tmp_path):
    """A segmenter at output stride 8 reads other features than the pre-training's at 32."""
    config.runs_at = Resolution((1, 2, 1, 1), (1, 1, 2, 4), contract_dilation=True)
    config.asked_taps = ("C4", "C5")
    options = config.runs_at.options()
    assert search_det.main(arguments(tmp_path / "out", "--group", "0-1", "--samples", "6")) == 0
    found = contents(tmp_path / "out")
    assert found["run"]["resolution"] == json.loads(json.dumps(options))
    batches = same_batches(found, config.source)
    loaded = load_supernet(supernet_file)
    teacher = extract(loaded.key, SPACE.largest, **options).train()
    for row in found["candidates"]:
        arch = Arch.parse(row["arch"])
        assert row["flops"] == cost.flops(arch)
        student = extract(loaded.query, arch, **options).train()
        expected = {"C4": 0.0, "C5": 0.0}
        with torch.no_grad():
            for batch in batches:
                maps = zip(("C4", "C5"), teacher(batch.images)[2:], student(batch.images)[2:], strict=True)
                for tap, theirs, ours in maps:
                    assert theirs.shape[-2:] == (8, 8)
                    expected[tap] += divergence(theirs[0].flatten(1), ours[0].flatten(1)) / 3
        assert row["taps"] == pytest.approx(expected, rel=1e-3)
    network = DATAResNet.from_pretrained(tmp_path / "out" / found["winners"][0]["folder"])
    # The winner's statistics are those of its features at these strides.
    best = extract(loaded.query, network.arch, **options)
    calibrate([best], [batch.images for batch in batches])
    for name, value in best.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """Eq. 4 and 5 of DATA per position with whole matrices, less the teacher's distance to itself; maps (C, HW)."""
    target, logits = ((F.normalize(m, dim=0).T @ F.normalize(m, dim=0)) / 0.2 for m in (teacher, student))
    return float((target.softmax(1) * (target.log_softmax(1) - logits.log_softmax(1))).sum(1).mean())


def test_the_literal_sum_over_positions_is_an_option(config, arguments, tmp_path):
    assert search_det.main(arguments(tmp_path / "mean")) == 0
    assert search_det.main(arguments(tmp_path / "sum", "--reduction", "sum")) == 0
    mean, total = (contents(tmp_path / name)["candidates"] for name in ("mean", "sum"))
    assert [row["score"] for row in total] == pytest.approx([4 * row["score"] for row in mean])  # C5 has 2 x 2


def test_the_report_names_every_candidate_and_loads_nothing(config, arguments, tmp_path):
    search_det.main(arguments(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(row["arch"] in page for row in contents(tmp_path / "out")["candidates"])
    assert "<svg" in page
    assert not any(word in page for word in ("src=", "<link", "@import"))


def test_budgets_combine_and_count_flops_at_the_given_size(config, arguments, tmp_path):
    flops, params = ([f(arch) for arch in SPACE] for f in (lambda a: cost.flops(a, (96, 64)), cost.params))
    most_flops, most_params = sorted(flops)[len(flops) // 2], sorted(params)[len(params) // 2]
    text = f"flops<={most_flops} and params<={most_params}"
    more = ["--group", "0-1", "--budget", text, "--input-size", "96x64", "--samples", "1000"]
    with pytest.warns(UserWarning, match="only"):
        assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    rows = contents(tmp_path / "out")["candidates"]
    found = {row["arch"] for row in rows if text in row["budgets"]}
    archs = zip(SPACE, flops, params, strict=True)
    assert found == {str(arch) for arch, f, p in archs if f <= most_flops and p <= most_params}
    assert 0 < len(found) < len(rows) == len(SPACE)


def test_a_latency_budget_is_measured_and_checked_on_whole_networks(config, arguments, tmp_path, capsys):
    more = ["--group", "0-1", "--budget", "latency<=10s and memory<=1GB", "--samples", "2"]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    group, winner = contents(tmp_path / "out")["winners"]
    assert group["measured"] == {}
    assert set(winner["measured"]) == {"latency", "memory"}
    assert all(cost > 0 for pair in winner["measured"].values() for cost in pair)
    assert "latency" in capsys.readouterr().out
    more[3] = "latency<=1us"
    assert search_det.main(arguments(tmp_path / "none", *more)) == 2
    assert "no network of this space is within latency<=1us" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_whole_front_is_an_answer(config, arguments, tmp_path, capsys):
    budgets = ["flops<=1G", "params<=1M and latency<=10s"]
    more = ["--group", "0-1", "--budget", *budgets, "--samples", "12", "--pareto"]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    printed = capsys.readouterr().out
    found = contents(tmp_path / "out")
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
            assert str(DATAResNet.from_pretrained(folder).arch) == winner["arch"]
            assert (folder / "faster_rcnn_c4_voc.py").is_file()
            assert winner["arch"] in printed
            cheaper = [r for r in rows.values() if all(r["costs"][q] <= row["costs"][q] for q in quantities)]
            assert winner["compared"] == len(cheaper)
            if len(cheaper) > 1:
                assert winner["lead"] >= 0
    assert "Pareto front</h2>" in (tmp_path / "out" / "report.html").read_text()
    assert search_det.main(arguments(tmp_path / "none", "--pareto", "--halve", "0.9")) == 2
    assert "--pareto or with --halve" in capsys.readouterr().err


def test_memory_precision_and_drawn_rows_are_stated(config, supernet_file, arguments, tmp_path, capsys):
    config.asked_taps = ("C2",)
    loaded = load_supernet(supernet_file)
    walk = Walk(loaded.query, loaded.key, ("C2",), 40)
    size = (walk.peak(1, (64, 64)) + walk.peak(2, (64, 64))) // 2
    more = ["--max-memory", f"{size}B", "--precision", "bfloat16", "--relation-rows", "40", "--batch-size", "2"]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    found = contents(tmp_path / "out")
    assert (found["run"]["max_memory"], found["precision"], found["rows"]) == (size, "bfloat16", 40)
    assert {name: found["images"][name] for name in ("batches", "split", "most_parts")} == {
        "batches": 2,
        "split": 1,
        "most_parts": 2,
    }
    assert all(row["sampling_error"] > 0 for row in found["candidates"])
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "40 drawn rows" in text
        assert "of the parts" in text


def test_exhaustive_compares_every_network_that_fits(config, arguments, tmp_path):
    assert search_det.main(arguments(tmp_path / "out", "--exhaustive")) == 0
    found = contents(tmp_path / "out")
    assert {row["arch"] for row in found["candidates"]} == {str(arch) for arch in SPACE}
    best = min(found["candidates"], key=lambda row: row["score"])
    assert best["arch"] in {winner["arch"] for winner in found["winners"]}


def test_halving_finds_a_winner_and_says_what_it_dropped(config, arguments, tmp_path, capsys):
    config.source = RandomImages([(64, 64)] * 24)
    assert search_det.main(arguments(tmp_path / "out", "--halve", "0.6")) == 0
    printed = capsys.readouterr().out
    assert search_det.main(arguments(tmp_path / "all")) == 0
    halved, whole = (contents(tmp_path / name) for name in ("out", "all"))
    kept, dropped = ({row["arch"] for row in rows} for rows in (halved["candidates"], halved["dropped"]))
    assert kept | dropped == {row["arch"] for row in whole["candidates"]}
    assert not kept & dropped
    assert len(dropped) > 0
    assert halved["run"]["strategy"]["confidence"] == 0.6
    assert f"dropped before they saw all images: {len(dropped)} networks" in printed
    assert all(row["images"] < 24 for row in halved["dropped"])
    scores = {row["arch"]: row["score"] for row in whole["candidates"]}
    assert all(row["score"] == pytest.approx(scores[row["arch"]], rel=1e-5) for row in halved["candidates"])
    # What identifies the data is the same hash, however many rounds read it.
    assert halved["images"] == whole["images"]
    assert len(halved["images"]["sha256"]) == 64


def test_evolution_stays_within_every_budget_and_resumes(config, arguments, groups, tmp_path):
    more = ["--evolve", "--population", "6", "--generations", "3"]
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    whole = (tmp_path / "out" / "search.json").read_text()
    found = json.loads(whole)
    assert found["run"]["strategy"]["name"] == "evolution"
    assert (found["run"]["strategy"]["population"], found["run"]["strategy"]["generations"]) == (6, 3)
    for text, winner in zip(groups, found["winners"], strict=True):
        low, high = (float(bound) * 1e9 for bound in text.split("-"))
        rows = [row for row in found["candidates"] if text in row["budgets"]]
        assert 6 < len(rows) <= 24
        assert all(low <= row["flops"] < high for row in rows)
        assert winner["score"] == min(row["score"] for row in rows)


def test_an_evolution_that_was_killed_goes_on(config, arguments, tmp_path, monkeypatch):
    more = ["--evolve", "--population", "6", "--generations", "3"]
    assert search_det.main(arguments(tmp_path / "whole", *more)) == 0
    from data_plugin.search.resume import PartialSearch

    write, written = PartialSearch.write, []

    def dying(self, *given):
        write(self, *given)
        written.append(given[:2])
        if len(written) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialSearch, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(tmp_path / "out", *more))
    assert search_det.main(arguments(tmp_path / "out", "--resume", *more)) == 0
    assert len(set(written)) == len(written)  # nothing was measured twice
    assert (tmp_path / "out" / "search.json").read_text() == (tmp_path / "whole" / "search.json").read_text()


def test_the_same_seed_gives_the_same_search(config, arguments, tmp_path):
    for name in ("a", "b"):
        search_det.main(arguments(tmp_path / name))
    assert (tmp_path / "a" / "search.json").read_text() == (tmp_path / "b" / "search.json").read_text()


def test_images_come_in_the_order_in_which_they_were_drawn(config, arguments, tmp_path):
    """Sorted back, the first images, which halving drops networks on, would be those of one video."""
    config.source = RandomImages([(32, 64)] * 24)
    for images in ("all", "12"):
        assert search_det.main(arguments(tmp_path / images, "--image-count", images, "--samples", "2")) == 0
    names = {images: contents(tmp_path / images)["images"]["names"] for images in ("all", "12")}
    assert names["all"] != sorted(names["all"])
    assert set(names["all"]) == set(config.source.names)
    assert names["12"] == names["all"][:12]


def test_a_killed_search_resumes_to_the_same_result(config, arguments, tmp_path, capsys):
    assert search_det.main(arguments(tmp_path / "whole")) == 0
    config.source = FailingImages(3, after=4)
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(tmp_path / "out"))
    _, _, *first = config.source.read  # what the plan is made by, and what memory is foreseen by, come before
    assert len(first) == 2

    assert search_det.main(arguments(tmp_path / "out")) == 2
    assert "add --resume or --overwrite" in capsys.readouterr().err
    for changes, message in ((["--seed", "1"], "another seed (0, now 1)"), (["--norm", "running"], "another norm")):
        assert search_det.main(arguments(tmp_path / "out", "--resume", *changes)) == 2
        assert message in capsys.readouterr().err

    config.source = FailingImages(3, after=9)
    assert search_det.main(arguments(tmp_path / "out", "--resume")) == 0
    assert config.source.read[2] not in first  # what is left, and then all for the winners' batch norms
    assert len(config.source.read) == 6
    assert (tmp_path / "whole" / "search.json").read_text() == (tmp_path / "out" / "search.json").read_text()
    assert search_det.main(arguments(tmp_path / "out", "--resume")) == 2
    assert "holds no unfinished search" in capsys.readouterr().err


class Killing(RandomImages):
    """Random images of which the last to be asked for ends the process."""

    def __init__(self, after: int) -> None:
        super().__init__([(64, 64)] * 3)
        self.left = after

    def __getitem__(self, index: int) -> LoadedImage:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize("after", [1, 3])
def test_a_search_may_be_killed_without_warning(config, arguments, tmp_path, after):
    assert search_det.main(arguments(tmp_path / "whole")) == 0
    kept = config.source

    def search() -> None:
        torch.set_num_threads(1)  # a forked process has lost the threads of its parent
        config.source = Killing(after)
        search_det.main(arguments(tmp_path / "killed"))

    process = multiprocessing.get_context("fork").Process(target=search)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "search.json").exists()
    config.source = kept
    assert search_det.main(arguments(tmp_path / "killed", "--resume")) == 0
    whole, resumed = (contents(tmp_path / name) for name in ("whole", "killed"))
    assert [row["arch"] for row in resumed["candidates"]] == [row["arch"] for row in whole["candidates"]]
    for one, other in zip(resumed["candidates"], whole["candidates"], strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_batches_of_a_search_that_was_being_replaced_are_not_gone_on_with(config, arguments, tmp_path):
    out = tmp_path / "out"
    assert search_det.main(arguments(out)) == 0
    whole = (out / "search.json").read_text()
    stale = out / "partial" / "000" / "batch-000000.npz"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another search, whose run.json is gone")
    assert search_det.main(arguments(out, "--resume")) == 0
    assert (out / "search.json").read_text() == whole


@pytest.mark.parametrize("more", [[], ["--halve", "0.6"], ["--group", "0-0.02", "0.0-0.020"]])
def test_progress_ends_at_its_total(config, arguments, tmp_path, monkeypatch, more):
    seen = {}

    @contextmanager
    def recorded(total, what):
        counts = []
        yield counts.append
        seen[what] = (sum(counts), total)

    monkeypatch.setattr("data_plugin.search.run.progress_over", recorded)
    config.source = RandomImages([(64, 64)] * 16)
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    assert len(seen) == 2  # the search, and the winners' batch norms
    for done, total in seen.values():
        assert done == pytest.approx(total)
    if more[:1] == ["--halve"]:
        assert contents(tmp_path / "out")["dropped"]


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
        (["--samples", "0"], "0 networks were asked for"),
        (["--device", "tpu7"], "tpu7"),
        (["--out", f"{__file__}/out"], "cannot be made in"),
        (["--population", "8"], "expected --evolve with it"),
        (["--max-memory", "lots"], "'lots' is not an amount of memory"),
        (["--max-memory", "0.1MB"], "raise --max-memory"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(config, arguments, tmp_path, capsys, more, message):
    assert search_det.main(arguments(tmp_path / "out", *more)) == 2
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
        (["--image-count", "many"], "'many' was given; expected a number of at least 1, or all"),
        (["--image-count", "0"], "'0' was given; expected a number of at least 1, or all"),
        (["--input-size", "0"], "'0' was given; expected pixels such as 224, or HxW such as 800x1333"),
        (["--input-size", "3x"], "'3x' is no size"),
        (["--input-size", "ax3"], "'a' was given; expected pixels"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(arguments, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        search_det.main(arguments(tmp_path / "out", *more))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_config_of_another_normalisation_is_refused(config, arguments, tmp_path, capsys):
    config.feeds = InputFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert search_det.main(arguments(tmp_path / "out")) == 2
    assert "BGR with mean 103.53/116.28/123.675 and std 1/1/1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_output_that_holds_something_is_kept_unless_told(config, arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    assert search_det.main(arguments(tmp_path / "out")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "precious").exists()
    assert search_det.main(arguments(tmp_path / "out", "--overwrite")) == 0
    assert not (tmp_path / "out" / "precious").exists()


def test_an_overwriting_search_that_was_killed_goes_on(config, arguments, tmp_path, capsys):
    """Beside the unfinished search there is still what it is to replace."""
    assert search_det.main(arguments(tmp_path / "out")) == 0
    kept, config.source = config.source, FailingImages(3, after=3)
    with pytest.raises(KeyboardInterrupt):
        search_det.main(arguments(tmp_path / "out", "--overwrite", "--seed", "1"))
    assert search_det.main(arguments(tmp_path / "out", "--seed", "1")) == 2
    assert "add --resume or --overwrite" in capsys.readouterr().err
    config.source = kept
    assert search_det.main(arguments(tmp_path / "out", "--seed", "1", "--resume")) == 0
    assert contents(tmp_path / "out")["run"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_search_reads_is_not_overwritten(config, supernet_file, arguments, tmp_path, capsys):
    held = tmp_path / "runs" / "supernet.safetensors"
    held.parent.mkdir()
    shutil.copy(supernet_file, held)
    assert search_det.main(arguments(tmp_path / "runs", "--overwrite", supernet=held)) == 2
    assert "would delete the supernet" in capsys.readouterr().err
    assert held.is_file()


def test_the_folder_that_one_is_in_is_not_replaced(config, arguments, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (Path("."), Path("..")):
        assert search_det.main(arguments(out, "--overwrite")) == 2
        assert "while you are in it" in capsys.readouterr().err
    assert search_det.main(arguments(Path("out"))) == 0
    assert Path("out/search.json").is_file()


def test_a_failure_while_writing_leaves_only_what_resume_needs(config, arguments, tmp_path, monkeypatch):
    def full_disk(self, arch, weights, path):
        path.write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(config), "write", full_disk)
        with pytest.raises(OSError, match="No space"):
            search_det.main(arguments(tmp_path / "out"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["out", "partial", "000"]
    assert search_det.main(arguments(tmp_path / "out", "--resume")) == 0
    assert not (tmp_path / "out" / "partial").exists()


def test_a_winner_that_one_image_cannot_tell_apart_is_called_so(config, arguments, tmp_path, capsys):
    config.source = RandomImages([(64, 64)])
    search_det.main(arguments(tmp_path / "out"))
    winner = contents(tmp_path / "out")["winners"][0]
    assert winner["standard_error"] is None
    assert winner["not_told_apart"] == winner["compared"] - 1
    assert "not told apart from 9 of 9" in capsys.readouterr().out
