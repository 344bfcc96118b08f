"""The main job through its command-line tools: search a supernet on a data set, fine-tune the winner, evaluate."""

import json
from pathlib import Path

import pytest
import torch
from samples import SMALL_C4, SPACE, random_supernet_file, with_classes

from data_plugin import Arch, DATAResNet, load_supernet
from data_plugin.frameworks.framework_config import LAST_CHECKPOINT
from data_plugin.frameworks.registry import DETECTRON2, MMDET
from data_plugin.tools import finetune_det, search_det


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_search_then_fine_tune(chosen, drawn_voc, tmp_path: Path, capsys):
    framework = chosen.name
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    supernet = random_supernet_file(tmp_path / "supernet.safetensors")
    common = ["--framework", framework, "--data-root", str(drawn_voc), "--opts", *SMALL_C4[framework]]
    search = ["--config", "faster_rcnn_c4_voc", "--supernet", str(supernet), "--out", str(tmp_path / "search")]
    assert search_det.main([*search, "--group", "0-1", "--samples", "5", "--image-count", "4", *common]) == 0

    (winner,) = json.loads((tmp_path / "search" / "search.json").read_text())["winners"]
    assert Arch.parse(winner["arch"]) in SPACE
    moved = (tmp_path / "search" / winner["folder"]).rename(tmp_path / "moved") if framework == "mmdet" else None
    folder = moved or tmp_path / "search" / winner["folder"]
    config = folder / f"faster_rcnn_c4_voc{chosen.configs.ending}"
    run = ["--config", str(config), "--data-root", str(drawn_voc), "--out", str(tmp_path / "detector")]
    assert finetune_det.main(run) == 0
    metrics = json.loads((tmp_path / "detector" / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75"} <= set(metrics)
    assert all(0 <= value <= 100 for value in metrics.values())

    weights = torch.load(folder / "backbone.pth", weights_only=True)
    assert weights["conv1.weight"].shape[0] == Arch.parse(winner["arch"]).stem
    capsys.readouterr()
    assert finetune_det.main(run) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert finetune_det.main([*run, "--eval-only"]) == 0
    assert json.loads((tmp_path / "detector" / "metrics.json").read_text()) == pytest.approx(metrics, abs=0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT", "ignore:.*classes of their own")
@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_a_data_set_with_classes_of_its_own(chosen, drawn_voc, tmp_path: Path, capsys):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    root = with_classes(drawn_voc, tmp_path / "own", ("raccoon", "kangaroo"))
    supernet = random_supernet_file(tmp_path / "supernet.safetensors")
    common = ["--framework", chosen.name, "--data-root", str(root)]
    search = ["--config", "faster_rcnn_c4_voc", "--supernet", str(supernet), *common]
    search += ["--group", "0-1", "--samples", "2", "--image-count", "2", "--opts", *SMALL_C4[chosen.name]]
    assert search_det.main([*search, "--out", str(tmp_path / "slip"), "--classes", "racoon,kangaroo"]) == 2
    assert "no annotation has a 'racoon'" in capsys.readouterr().err
    assert search_det.main([*search, "--out", str(tmp_path / "search"), "--classes", "raccoon, kangaroo"]) == 0

    found = json.loads((tmp_path / "search" / "search.json").read_text())
    assert found["run"]["classes"] == ["raccoon", "kangaroo"]
    config = tmp_path / "search" / found["winners"][0]["folder"] / f"faster_rcnn_c4_voc{chosen.configs.ending}"
    assert finetune_det.main(["--config", str(config), *common, "--out", str(tmp_path / "detector")]) == 0
    assert {"AP", "AP50", "AP75"} <= set(json.loads((tmp_path / "detector" / "metrics.json").read_text()))


@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_a_network_that_is_named_is_taken_out_of_the_supernet(chosen, drawn_voc, tmp_path: Path, capsys, monkeypatch):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    supernet = random_supernet_file(tmp_path / "supernet.safetensors")
    out = tmp_path / "detector"
    trained = []

    def train(config, out, task, **options):
        trained.append((Path(config), options["options"]))
        (out / LAST_CHECKPOINT).touch()
        return {"AP": 1.0}

    monkeypatch.setattr("data_plugin.frameworks.run.run_finetune", train)
    arguments = ["--config", "faster_rcnn_c4_voc", "--framework", chosen.name, "--data-root", str(drawn_voc)]
    arguments += ["--out", str(out), "--opts", *SMALL_C4[chosen.name]]
    assert finetune_det.main([*arguments, "--arch", str(SPACE.middle)]) == 2
    assert "--arch is given without --supernet" in capsys.readouterr().err
    named = [*arguments, "--supernet", str(supernet), "--arch"]
    assert finetune_det.main([*named, "d9-9-9-9_w8-8-8-8-8"]) == 2
    assert "d9-9-9-9_w8-8-8-8-8" in capsys.readouterr().err
    assert not trained

    assert finetune_det.main([*named, str(SPACE.middle)]) == 0
    ((path, _),) = trained
    written = chosen.open(str(path), [], drawn_voc)
    backbone = DATAResNet.from_pretrained(path.parent)
    assert backbone.arch == SPACE.middle
    query = load_supernet(supernet).query
    torch.testing.assert_close(backbone.conv1.weight, query.conv1.weight[: SPACE.middle.stem], rtol=0, atol=0)
    assert written.taps == ("C5",)
    assert str(SPACE.middle) in path.read_text()
    assert "backbone.pth" in path.read_text()

    before = path.read_bytes()
    assert finetune_det.main([*named, str(SPACE.largest), "--resume"]) == 2
    assert "holds a run of another network" in capsys.readouterr().err
    assert finetune_det.main([*named, str(SPACE.middle), "--resume"]) == 0
    assert path.read_bytes() == before
    assert trained[1][0] == path
