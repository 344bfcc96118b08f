"""Whether a search ranks networks as fine-tuning does: what is trained, what is found, and how it goes on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from samples import random_detector

from data_plugin import Arch
from data_plugin.ranking.run import Comparison, train_each
from data_plugin.search.found import Search
from data_plugin.search.report.rank_check import CHANCE, DISTANCE, TOGETHER
from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.report.words import rank_texts, trust_texts
from data_plugin.space import cost
from data_plugin.tools import rank_check, search_det

GROUPS = ["0.01-0.02", "0.02-0.04"]


@pytest.fixture(scope="module")
def searched(supernet, tmp_path_factory) -> Path:
    """The folder of a finished search of two budgets."""
    out = tmp_path_factory.mktemp("searched") / "out"
    given = ["--config", "faster_rcnn_c4_voc", "--supernet", supernet, "--out", out, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_plugin.search.prepared.config_task", random_detector)
        assert search_det.main([*map(str, given), "--group", *GROUPS, "--samples", "12", "--image-count", "2"]) == 0
    return out


@pytest.fixture
def search(searched, tmp_path) -> Path:
    """A copy of it, to write into."""
    for name in ("search.json", "report.html"):
        (tmp_path / name).write_bytes((searched / name).read_bytes())
    return tmp_path


class Trainings:
    """What is fine-tuned in the place of a framework's trainings, and the AP that it comes to.

    Args:
        search: the search's folder.
    """

    def __init__(self, search: Path) -> None:
        candidates = Search.read(search).report.candidates
        self.scores = dict(zip(candidates.archs, candidates.scores, strict=True))
        self.done: list[tuple[Arch, int]] = []
        self.killed_after: int | None = None

    def metric(self, arch: Arch, seed: int) -> float:
        return 50 - 100 * self.scores[arch]

    def train(self, training, folder: Path) -> None:
        if len(self.done) == self.killed_after:
            raise KeyboardInterrupt
        self.done.append((training.arch, training.seed))
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"AP": float(self.metric(training.arch, training.seed))}))

    def finetune_each(self, supernet, config, out, trainings, *, iterations, resume, done, **_) -> Comparison:
        return train_each(out, {"iterations": iterations}, "AP", trainings, self.train, resume, done)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, search) -> Trainings:
    trainings = Trainings(search)
    monkeypatch.setattr("data_plugin.ranking.searched.finetune_each", trainings.finetune_each)
    return trainings


def check(search: Path, *more: str) -> int:
    given = [*more] if "--networks" in more else ["--networks", "6", *more]
    return rank_check.main(["--search", str(search), "--finetune", "40", *given])


def test_networks_that_fall_off_with_their_distance_are_ranked_without_error(search, trained, capsys):
    assert check(search, "--budget", GROUPS[1]) == 0
    found = Search.read(search).report
    (ranked,) = found.rank_checks.values()
    assert len(ranked.networks) == 6
    assert trained.done == [(each.arch, seed) for seed in (0, 1) for each in ranked.networks]
    assert found.closest(GROUPS[1]).arch in [each.arch for each in ranked.networks]
    distance = ranked.predictor(DISTANCE)
    assert distance.spearman == pytest.approx(1)
    assert distance.picked == pytest.approx(ranked.best)
    assert (ranked.agreement, ranked.reach) == (pytest.approx(1), pytest.approx(1))
    metric = [each.mean for each in ranked.networks]
    assert ranked.predictor(CHANCE).picked == pytest.approx(np.mean(metric))
    for name, of in (("FLOPs", cost.flops), ("parameters", cost.params)):
        best = max(of(each.arch) for each in ranked.networks)
        first = [each.mean for each in ranked.networks if of(each.arch) == best]
        assert ranked.predictor(name).picked == pytest.approx(np.mean(first))

    written = json.loads((search / "ranking.json").read_text())
    assert written["checks"][GROUPS[1]] == json.loads(json.dumps(ranked.to_json()))
    assert written["settings"]["iterations"] == 40
    printed = capsys.readouterr().out
    assert "fine-tunes 12 times for 40 iterations, with the seeds 0 1" in printed
    assert "the distance ranks 6 networks by AP after 40 iterations: Spearman +1.00" in printed
    page = (search / "report.html").read_text()
    assert "How far to trust this" in page
    assert f"{GROUPS[1]}: the distance ranks 6 networks by AP" in page


def test_the_networks_are_spread_over_the_candidates_cost(search, trained):
    report = Search.read(search).report
    assert check(search, "--seeds", "3") == 0
    for budget in GROUPS:
        within = [arch for arch, of in zip(report.candidates.archs, report.candidates.budgets, strict=True)
                  if budget in of]  # fmt: skip
        within.sort(key=lambda arch: (cost.flops(arch), arch))
        chosen = [each.arch for each in Search.read(search).report.rank_checks[budget].networks]
        parts = [sum(arch in part for arch in chosen) for part in np.array_split(np.array(within, dtype=object), 6)]
        assert parts == [1] * 6


def test_some_networks_alone_are_trained_with_every_seed(search, trained, capsys):
    """They tell how far seeds agree; the others' metric is that of the first seed."""
    trained.metric = lambda arch, seed: 50 - 100 * trained.scores[arch] + seed
    assert check(search, "--budget", GROUPS[1], "--networks", "10", "--repeat", "4", "--seeds", "5", "6") == 0
    assert "fine-tunes 14 times" in capsys.readouterr().out
    (ranked,) = Search.read(search).report.rank_checks.values()
    archs = [each.arch for each in ranked.networks]
    repeated = [archs[0], archs[3], archs[6], archs[9]]
    assert trained.done == [*((arch, 5) for arch in archs), *((arch, 6) for arch in repeated)]
    for each in ranked.networks:
        seeds = (5, 6) if each.arch in repeated else (5,)
        assert each.values == pytest.approx([trained.metric(each.arch, seed) for seed in seeds])
    assert (ranked.agreement, ranked.reach) == (pytest.approx(1), pytest.approx(1))


def test_several_budgets_are_looked_at_alone_and_together(search, trained):
    assert check(search) == 0
    checks = Search.read(search).report.rank_checks
    assert list(checks) == [*GROUPS, TOGETHER]
    together = {each.arch for each in checks[TOGETHER].networks}
    assert together == {each.arch for budget in GROUPS for each in checks[budget].networks}


def test_a_distance_that_ranks_upside_down_is_said_loudly(search, trained, capsys):
    trained.metric = lambda arch, seed: trained.scores[arch]
    assert check(search, "--budget", GROUPS[1], "--networks", "12") == 0
    assert (
        "THE DISTANCE RANKS 12 networks by AP after 40 iterations UPSIDE DOWN: Spearman -1.00"
        in capsys.readouterr().out
    )


def test_of_four_networks_no_order_shows_anything(search, trained, capsys):
    assert check(search, "--budget", GROUPS[1], "--networks", "4") == 0
    printed = capsys.readouterr().out
    assert "it is not shown that the distance ranks 4 networks" in printed
    assert "Spearman +1.00, +1.00 to +1.00 at 95 % confidence, random orders -1.00 to +1.00" in printed


def test_a_rival_that_ranks_better_is_named(search, trained, capsys):
    trained.metric = lambda arch, seed: sum(arch.depth)
    assert check(search, "--budget", GROUPS[1], "--networks", "12", "--seeds", "0") == 0
    printed = capsys.readouterr().out
    assert "ranked better without a search by depth (+1.00)" in printed
    assert "with one seed it is not known how far any ranking could agree" in printed


def test_rivals_that_rank_upside_down_too_are_not_called_better(search, trained):
    trained.metric = lambda arch, seed: -sum(arch.depth)
    assert check(search, "--budget", GROUPS[1], "--networks", "12", "--seeds", "0") == 0
    (ranked,) = Search.read(search).report.rank_checks.values()
    wrong = [dataclasses.replace(each, spearman=-abs(each.spearman or 0.1)) for each in ranked.predictors]
    worse = [dataclasses.replace(each, spearman=-0.9) if each.name == DISTANCE else each for each in wrong]
    text = "; ".join(rank_texts(dataclasses.replace(ranked, predictors=worse)))
    assert "no rival ranks them, either; the best is" in text
    assert "better" not in text


def test_networks_that_all_come_to_the_same_cannot_be_ranked(search, trained, capsys):
    trained.metric = lambda arch, seed: 0
    assert check(search, "--budget", GROUPS[0]) == 0
    (ranked,) = Search.read(search).report.rank_checks.values()
    assert (ranked.agreement, ranked.reach, ranked.predictor(DISTANCE).spearman) == (None, None, None)
    assert (
        "6 networks cannot be ranked: AP after 40 iterations, or the distance, is the same" in capsys.readouterr().out
    )


def test_it_goes_on_where_it_stopped(search, trained, capsys):
    trained.killed_after = 3
    with pytest.raises(KeyboardInterrupt):
        check(search, "--budget", GROUPS[0])
    assert not Search.read(search).report.rank_checks
    trained.killed_after = None
    assert check(search, "--budget", GROUPS[0]) == 2
    assert "is not empty; add --resume to go on with it" in capsys.readouterr().err
    assert check(search, "--budget", GROUPS[0], "--resume") == 0
    assert len(trained.done) == len(set(trained.done)) == 12
    assert rank_check.main(["--search", str(search), "--finetune", "50", "--resume"]) == 2
    assert "iterations was 40 and is 50" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--budget", "3-4"], "the search has no budget '3-4'; expected some of 0.01-0.02, 0.02-0.04"),
        (["--networks", "3"], "3 networks were asked for; expected 4 at least"),
        (["--repeat", "2"], "2 networks were asked for with all seeds; expected 4 at least"),
        (["--seeds", "1", "1"], "the seeds are 1 1; expected one at least, each once"),
    ],
)
def test_what_does_not_fit_is_one_sentence(search, trained, given, said, capsys):
    assert check(search, *given) == 2
    assert said in capsys.readouterr().err
    assert not trained.done
    assert not (search / "rank_check").exists()


def test_a_folder_without_a_search_and_several_processes_are_refused(search, trained, tmp_path, monkeypatch, capsys):
    assert check(tmp_path / "nothing") == 2
    assert "expected the output folder of a finished search" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check(search) == 2
    assert "networks of a search are fine-tuned by one process" in capsys.readouterr().err


def test_labelled_images_are_for_classification_alone(search, trained, tmp_path, capsys):
    assert check(search, "--train", str(tmp_path), "--val", str(tmp_path)) == 2
    assert "was searched by a config, which names its data; leave out --train and --val" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_trained(search, trained, capsys):
    assert check(search, "--dry-run") == 0
    assert "fine-tunes 24 times for 40 iterations" in capsys.readouterr().out
    assert not trained.done
    assert not (search / "rank_check").exists()


def test_a_search_that_was_not_checked_says_how(search):
    report = SearchReport.read(search)
    assert "data-rank-check --search FOLDER --finetune N" in trust_texts(report)[-1]
    assert "How far to trust this" in (search / "report.html").read_text()
