"""Whether a search ranks networks as fine-tuning does: what is trained, what is found, and how it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from samples import SMALL_C4

from data_plugin.frameworks.registry import frameworks_of
from data_plugin.ranking import run as ranking_run
from data_plugin.search.found import Search
from data_plugin.search.report.rank_check import CHANCE, DISTANCE, TOGETHER
from data_plugin.search.report.search_report import SearchReport
from data_plugin.search.report.words import trust_texts
from data_plugin.space import cost
from data_plugin.tools import rank_check, search_det

INSTALLED = [framework.name for framework in frameworks_of("detection") if framework.is_installed]

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no framework for detection is installed")

GROUPS = ["0.01-0.02", "0.02-0.04"]


@pytest.fixture(scope="module")
def searched(supernet, drawn_voc, tmp_path_factory) -> Path:
    """The folder of a finished search of two budgets."""
    out = tmp_path_factory.mktemp("searched") / "out"
    framework = INSTALLED[0]
    given = ["--config", "faster_rcnn_c4_voc", "--framework", framework, "--supernet", supernet]
    given += ["--data-root", drawn_voc]
    given += ["--out", out, "--group", *GROUPS, "--samples", "12", "--image-count", "2", "--opts", *SMALL_C4[framework]]
    assert search_det.main([str(each) for each in given]) == 0
    return out


@pytest.fixture
def search(searched, tmp_path) -> Path:
    """A copy of it, to write into."""
    for name in ("search.json", "report.html"):
        (tmp_path / name).write_bytes((searched / name).read_bytes())
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, search) -> dict[str, list]:
    """What would be fine-tuned, in the place of a framework's trainer; by its ``metric`` of a network and a seed."""
    report = Search.read(search).report
    scores = {str(arch): score for arch, score in zip(report.candidates.archs, report.candidates.scores, strict=True)}
    answers = {"runs": [], "metric": lambda arch, seed: 50 - 100 * scores[arch]}

    def run(config, out, task, **_):
        arch, seed = out.parent.parent.name, int(out.name.removeprefix("seed_"))
        answers["runs"].append((arch, seed))
        (out / "metrics.json").write_text(json.dumps({"AP": float(answers["metric"](arch, seed)), "AP50": 50.0}))

    monkeypatch.setattr(ranking_run, "run_finetune", run)
    return answers


def check(search: Path, *more: str) -> int:
    given = [*more] if "--networks" in more else ["--networks", "6", *more]
    return rank_check.main(["--search", str(search), "--finetune", "40", *given])


def test_networks_that_fall_off_with_their_distance_are_ranked_without_error(search, trained, capsys):
    assert check(search, "--budget", GROUPS[1]) == 0
    found = Search.read(search).report
    (ranked,) = found.rank_checks.values()
    assert len(ranked.networks) == 6
    assert trained["runs"] == [(str(each.arch), seed) for seed in (0, 1) for each in ranked.networks]
    assert found.closest(GROUPS[1]).arch in [each.arch for each in ranked.networks]
    distance = ranked.predictor(DISTANCE)
    assert distance.spearman == pytest.approx(1)
    assert distance.picked == pytest.approx(ranked.best)
    assert ranked.agreement == ranked.reach == pytest.approx(1)
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
    assert "The distance ranks" not in page  # after its budget, as in
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


def test_several_budgets_are_looked_at_alone_and_together(search, trained):
    assert check(search) == 0
    checks = Search.read(search).report.rank_checks
    assert list(checks) == [*GROUPS, TOGETHER]
    together = {each.arch for each in checks[TOGETHER].networks}
    assert together == {each.arch for budget in GROUPS for each in checks[budget].networks}


def test_a_distance_that_ranks_upside_down_is_said_loudly(search, trained, capsys):
    upright = trained["metric"]
    trained["metric"] = lambda arch, seed: 100 - upright(arch, seed)
    assert check(search, "--budget", GROUPS[1], "--networks", "12") == 0
    assert (
        "THE DISTANCE RANKS 12 networks by AP after 40 iterations UPSIDE DOWN: Spearman -1.00"
        in capsys.readouterr().out
    )


def test_a_rival_that_ranks_better_is_named(search, trained, capsys):
    trained["metric"] = lambda arch, seed: sum(map(int, arch[1:].split("_")[0].split("-")))
    assert check(search, "--budget", GROUPS[1], "--networks", "12", "--seeds", "0") == 0
    printed = capsys.readouterr().out
    assert "ranked better without a search by depth (+1.00)" in printed
    assert "with one seed it is not known how far any ranking could agree" in printed


def test_networks_that_all_come_to_the_same_cannot_be_ranked(search, trained, capsys):
    trained["metric"] = lambda arch, seed: 0
    assert check(search, "--budget", GROUPS[0]) == 0
    (ranked,) = Search.read(search).report.rank_checks.values()
    assert (ranked.agreement, ranked.reach, ranked.predictor(DISTANCE).spearman) == (None, None, None)
    assert (
        "6 networks cannot be ranked: AP after 40 iterations, or the distance, is the same" in capsys.readouterr().out
    )


def test_it_goes_on_where_it_stopped(search, trained, monkeypatch, capsys):
    run = ranking_run.run_finetune

    def killed(*given, **more):
        if len(trained["runs"]) == 3:
            raise KeyboardInterrupt
        run(*given, **more)

    monkeypatch.setattr(ranking_run, "run_finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        check(search, "--budget", GROUPS[0])
    assert not Search.read(search).report.rank_checks
    monkeypatch.setattr(ranking_run, "run_finetune", run)
    assert check(search, "--budget", GROUPS[0]) == 2
    assert "is not empty; add --resume to go on with it" in capsys.readouterr().err
    assert check(search, "--budget", GROUPS[0], "--resume") == 0
    assert len(trained["runs"]) == len(set(trained["runs"])) == 12
    assert rank_check.main(["--search", str(search), "--finetune", "50", "--resume"]) == 2
    assert "iterations was 40 and is 50" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--budget", "3-4"], "the search has no budget '3-4'; expected some of 0.01-0.02, 0.02-0.04"),
        (["--networks", "3"], "3 networks were asked for; expected 4 at least"),
        (["--seeds", "1", "1"], "the seeds are 1 1; expected one at least, each once"),
    ],
)
def test_what_does_not_fit_is_one_sentence(search, trained, given, said, capsys):
    assert check(search, *given) == 2
    assert said in capsys.readouterr().err
    assert not trained["runs"]
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
    assert not trained["runs"]
    assert not (search / "rank_check").exists()


def test_a_search_that_was_not_checked_says_how(search):
    report = SearchReport.read(search)
    assert "data-rank-check --search FOLDER --finetune N" in trust_texts(report)[-1]
    assert "How far to trust this" in (search / "report.html").read_text()
