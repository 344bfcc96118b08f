"""Networks fine-tuned alike: what they start from, what is trained again, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from samples import SMALL_C4, SPACE

from data_plugin import UserError
from data_plugin.ranking import run as ranking_run
from data_plugin.ranking.run import finetune_alike
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools import finetune_alike as tool

pytest.importorskip("mmdet", reason="mmdet is not installed")

CONFIG = "faster_rcnn_c4_voc"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """What would be fine-tuned, and with which options, in the place of a framework's trainer."""
    runs: list[tuple[Path, list[str]]] = []

    def run(config, out, task, *, options, resume, **_):
        runs.append((out, [*options, *(["resumed"] if resume else [])]))
        (out / "metrics.json").write_text(json.dumps({"AP": float(len(runs)), "AP50": 2.0}))

    monkeypatch.setattr(ranking_run, "run_finetune", run)
    return runs


def compare(supernet: Path, root: Path, out: Path, **options):
    options = {"framework": "mmdet", "data_root": root, "options": SMALL_C4["mmdet"], **options}
    return finetune_alike(supernet, CONFIG, out, **options)


def weights(folder: Path) -> torch.Tensor:
    return torch.load(folder / "backbone.pth", weights_only=True)["conv1.weight"]


def test_every_network_is_trained_with_every_start_and_seed(supernet, drawn_voc, tmp_path, trained):
    comparison = compare(supernet, drawn_voc, tmp_path / "out", archs=["smallest", "largest"], seeds=[0, 1])
    folders = [
        f"{arch}/{start}/seed_{seed}"
        for seed in (0, 1)
        for arch in (SPACE.smallest, SPACE.largest)
        for start in ("supernet", "random")
    ]
    assert [(str(out.relative_to(tmp_path / "out")), options) for out, options in trained] == [
        (folder, [f"randomness.seed={folder[-1]}"]) for folder in folders
    ]
    assert comparison.metric == "AP"
    assert comparison.values("largest", "random") == [4.0, 8.0]

    shared = load_supernet(supernet).query.state_dict()["conv1.weight"]
    seeds = [tmp_path / "out" / str(SPACE.smallest) / "supernet" / f"seed_{seed}" for seed in (0, 1)]
    assert all(torch.equal(weights(folder), shared[: SPACE.smallest.stem]) for folder in seeds)
    random = [weights(tmp_path / "out" / str(SPACE.smallest) / "random" / f"seed_{seed}") for seed in (0, 1)]
    assert not torch.equal(random[0], random[1])
    assert not any(torch.equal(each, shared[: SPACE.smallest.stem]) for each in random)


def test_the_shipped_supernet_goes_by_its_name(shipped, drawn_voc, tmp_path, trained):
    settings = compare("shipped", drawn_voc, tmp_path / "out", archs=["smallest"], weights=["supernet"]).settings
    assert settings["supernet"] == {"name": "shipped", "sha256": hashlib.sha256(shipped.read_bytes()).hexdigest()}


def test_what_is_done_is_not_trained_again(supernet, drawn_voc, tmp_path, trained):
    out = tmp_path / "out"
    first = compare(supernet, drawn_voc, out, archs=["smallest"])
    killed = out / str(SPACE.smallest) / "random" / "seed_0"
    (killed / "metrics.json").unlink()
    (killed / "last_checkpoint").write_text("iter_1.pth")
    again = compare(supernet, drawn_voc, out, archs=["smallest"], resume=True)
    assert trained[2:] == [(killed, ["randomness.seed=0", "resumed"])]
    assert again.values("smallest", "supernet") == first.values("smallest", "supernet")
    written = json.loads((out / "comparison.json").read_text())
    assert [(row["weights"], row["metrics"]["AP"]) for row in written["finetuned"]] == [
        ("supernet", 1.0),
        ("random", 3.0),
    ]


def test_other_networks_and_seeds_join_what_is_there(supernet, drawn_voc, tmp_path, trained):
    out = tmp_path / "out"
    compare(supernet, drawn_voc, out, archs=["smallest"], weights=["supernet"])
    more = compare(supernet, drawn_voc, out, archs=["largest", "smallest"], weights=["random"], seeds=[1], resume=True)
    assert [each.name for each in more.finetuned] == ["largest", "smallest"]
    compare(supernet, drawn_voc, out, archs=["smallest"], weights=["supernet"], resume=True)
    written = json.loads((out / "comparison.json").read_text())["finetuned"]
    assert sorted((row["name"], row["weights"], row["seed"], row["metrics"]["AP"]) for row in written) == [
        ("largest", "random", 1, 2.0),
        ("smallest", "random", 1, 3.0),
        ("smallest", "supernet", 0, 1.0),
    ]
    assert len(trained) == 3


def test_a_folder_of_something_else_is_refused(supernet, drawn_voc, tmp_path, trained):
    out = tmp_path / "out"
    compare(supernet, drawn_voc, out, archs=["smallest"])
    with pytest.raises(UserError, match="is not empty; add --resume"):
        compare(supernet, drawn_voc, out, archs=["smallest"])
    changed = [*SMALL_C4["mmdet"], "train_cfg.max_iters=3"]
    with pytest.raises(UserError, match="other settings: options was"):
        compare(supernet, drawn_voc, out, archs=["smallest"], options=changed, resume=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(UserError, match="holds no comparison to go on with"):
        compare(supernet, drawn_voc, other, resume=True)
    with pytest.raises(UserError, match="is a file; expected a folder"):
        compare(supernet, drawn_voc, other / "file")
    assert len(trained) == 2


def test_without_its_images_nothing_is_begun(supernet, tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data/VOCdevkit is not a folder; give --data-root"):
        compare(supernet, None, tmp_path / "out", archs=["smallest"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_tool_trains_and_shows_both_starts(supernet, drawn_voc, tmp_path, capsys):
    arguments = ["--supernet", supernet, "--config", CONFIG, "--out", tmp_path / "out", "--data-root", drawn_voc]
    arguments += ["--framework", "mmdet", "--arch", "smallest", "--opts", *SMALL_C4["mmdet"]]
    assert tool.main([str(argument) for argument in arguments]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["weights"] for row in written["finetuned"]] == ["supernet", "random"]
    for row in written["finetuned"]:
        assert f"{row['weights']} weights, seed 0: AP {row['metrics']['AP']:.1f}" in shown
