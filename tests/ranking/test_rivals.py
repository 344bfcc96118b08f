"""Winners and rivals of a search, fine-tuned alike: what is trained, what the report says of it, and how it goes on."""

import json
from pathlib import Path

import pytest
import torch
from samples import SMALL_C4

from data_plugin import Arch, UserError
from data_plugin.ranking import run as ranking_run
from data_plugin.ranking.rivals import finetune_rivals
from data_plugin.search.found import Search
from data_plugin.search.rivals import MOST_FLOPS, MOST_PARAMS, RESNET50
from data_plugin.tools import search_det

pytest.importorskip("mmdet", reason="mmdet is not installed")


@pytest.fixture
def arguments(supernet, drawn_voc, tmp_path) -> list[str]:
    given = ["--config", "faster_rcnn_c4_voc", "--framework", "mmdet", "--supernet", supernet, "--data-root", drawn_voc]
    given += ["--out", tmp_path / "out", "--group", "0-0.02", "--samples", "3", "--image-count", "2"]
    return [*map(str, given), "--opts", *SMALL_C4["mmdet"]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of what would be fine-tuned, in the place of a framework's trainer, which comes to AP 1, 2 and on."""
    runs: list[Path] = []

    def run(config, out, task, **_):
        runs.append(out)
        (out / "metrics.json").write_text(json.dumps({"AP": float(len(runs)), "AP50": 50.0}))

    monkeypatch.setattr(ranking_run, "run_finetune", run)
    return runs


def test_the_report_has_what_winner_and_rivals_come_to(arguments, tmp_path, trained, capsys):
    out = tmp_path / "out"
    assert search_det.main([*arguments, "--finetune", "40"]) == 0
    report = Search.read(out).report
    (networks,) = report.finetuning.networks.values()
    assert [(each.name, each.weights) for each in networks] == [
        ("winner", "supernet"),
        (RESNET50, "supernet"),
        (MOST_FLOPS, "supernet"),
        (MOST_PARAMS, "supernet"),
        ("a random one", "supernet"),
        (RESNET50, "random"),
    ]
    assert networks[0].arch == report.winners[0].arch
    assert {each.name: each.arch for each in networks[1:4]} == {each.name: each.arch for each in report.rivals}
    assert networks[4].arch in report.candidates.archs
    assert len(trained) == len({(each.arch, each.weights) for each in networks})
    values = {out.relative_to(tmp_path / "out" / "finetuned"): float(at) for at, out in enumerate(trained, 1)}
    for each in networks:
        assert each.metrics["AP"] == values[Path(str(each.arch), each.weights, "seed_0")]

    printed = capsys.readouterr().out
    assert "\nthen      fine-tunes winners and rivals for 40 iterations each, six a budget" in printed
    lines = printed[printed.rindex("AP after 40 iterations") :].splitlines()
    for each in networks:
        name = f"{each.name}, random weights" if each.weights == "random" else each.name
        assert next(line for line in lines if f"  {name}  " in line or f"  {name} (" in line).endswith(
            f" {each.metrics['AP']:.1f}"
        )
    assert "AP after 40 iterations" in (out / "report.html").read_text()


def test_it_goes_on_where_it_stopped_without_another_search(arguments, tmp_path, trained, monkeypatch):
    out, run = tmp_path / "out", ranking_run.run_finetune

    def killed(*given, **more):
        if len(trained) == 1:
            raise KeyboardInterrupt
        run(*given, **more)

    monkeypatch.setattr(ranking_run, "run_finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        search_det.main([*arguments, "--finetune", "40"])
    before = Search.read(out).report
    assert before.finetuning is None
    monkeypatch.setattr(ranking_run, "run_finetune", run)
    monkeypatch.setattr("data_plugin.search.run.run_search", lambda *_: pytest.fail("searched again"))
    assert search_det.main([*arguments, "--finetune", "40", "--resume"]) == 0
    after = Search.read(out).report
    assert after.finetuning is not None
    assert [str(winner.arch) for winner in after.winners] == [str(winner.arch) for winner in before.winners]
    assert len(trained) == len(set(trained))


def test_the_bare_command_goes_on_with_its_newest_search_that_is_not_fine_tuned(
    arguments, tmp_path, trained, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    at = arguments.index("--out")
    bare = [*arguments[:at], *arguments[at + 2 :]]
    assert search_det.main(bare) == 0
    assert search_det.main([*bare, "--finetune", "40"]) == 0
    monkeypatch.setattr("data_plugin.search.run.run_search", lambda *_: pytest.fail("searched again"))
    assert search_det.main([*bare, "--finetune", "40", "--resume"]) == 0
    assert Search.read(Path("runs", "faster_rcnn_c4_voc-1")).report.finetuning is not None
    capsys.readouterr()
    assert search_det.main([*bare, "--finetune", "40", "--resume"]) == 2
    assert "holds no unfinished search of faster_rcnn_c4_voc, nor one to fine-tune" in capsys.readouterr().err


def test_what_does_not_go_on_is_one_sentence(arguments, supernet, tmp_path, trained, monkeypatch, capsys):
    assert search_det.main([*arguments, "--finetune", "40"]) == 0
    capsys.readouterr()
    assert search_det.main([*arguments, "--finetune", "40", "--resume", "--seed", "5"]) == 2
    assert "a finished search of other settings: its seed was 0 and is 5" in capsys.readouterr().err
    assert search_det.main([*arguments, "--finetune", "40", "--resume", "--precision", "bfloat16"]) == 2
    assert "its precision was 'float32' and is 'bfloat16'" in capsys.readouterr().err
    assert search_det.main([*arguments, "--finetune", "50", "--resume"]) == 2
    assert "iterations was 40 and is 50" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert search_det.main([*arguments, "--finetune", "40", "--overwrite"]) == 2
    assert "are fine-tuned by one process" in capsys.readouterr().err
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    found = Search.read(tmp_path / "out")
    found.report.run["supernet"]["sha256"] = "another"
    with pytest.raises(UserError, match="is no longer the supernet that"):
        finetune_rivals(found, 40)


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_length_that_is_none_is_refused(arguments, count, capsys):
    with pytest.raises(SystemExit):
        search_det.main([*arguments, "--finetune", count])
    assert "expected a number of iterations, at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_networks_are_trained_as_long_as_was_said(arguments, supernet, tmp_path):
    smallest = "d1-1-1-1_w4-4-8-8-16"
    at = arguments.index("--group")
    arguments[at : at + 2] = ["--budget", "params<=11076"]  # of the smallest network alone
    assert search_det.main([*arguments, "--finetune", "3"]) == 0
    folder = tmp_path / "out" / "finetuned" / str(Arch.parse(smallest))
    for start in ("supernet", "random"):
        checkpoints = folder / start / "seed_0"
        assert (checkpoints / "last_checkpoint").read_text().endswith("iter_3.pth")
        assert torch.load(checkpoints / "iter_3.pth", weights_only=False)["meta"]["iter"] == 3
