"""The way of a notebook: the snippet of the README runs as it is written."""

import re
from pathlib import Path

import pytest

from data_plugin import DATAResNet
from data_plugin.frameworks import run as finetuning
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.search.found import Search
from data_plugin.search.strategies.sample import Sample

pytest.importorskip("lightly", reason="pre-training is not installed")
pytest.importorskip("mmdet", reason="no framework is installed")

SMALL = {
    "detectron2": ["SOLVER.MAX_ITER=2", "SOLVER.IMS_PER_BATCH=1", "TEST.PRECISE_BN.ENABLED=False"],
    "mmdet": ["train_cfg.max_iters=2", "train_dataloader.batch_size=1", "custom_hooks=[]"],
}
"""What makes of the recipe's 24,000 iterations two, so that a test can wait for them."""


def snippet(checkout: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (checkout / "README.md").read_text(), re.S)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_snippet_of_the_readme_runs_as_written(checkout, tmp_path, monkeypatch):
    draw_voc(tmp_path / "VOCdevkit", train=2, test=2, size=(96, 64), seed=0, unlabelled=70)
    (tmp_path / "images").symlink_to(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages")
    monkeypatch.chdir(tmp_path)
    finetune = finetuning.run_finetune

    def shortened(config, out, task, *, framework, **options):
        return finetune(config, out, task, framework=framework, options=SMALL[framework], **options)

    def few(self, space, budgets, seed):
        return {name: space.sample(5, seed, within) for name, within in budgets.items()}

    monkeypatch.setattr("data_plugin.search.found.run_finetune", shortened)
    monkeypatch.setattr(Sample, "candidates", few)  # of the 100 that a search draws
    names: dict = {}
    exec(snippet(checkout), names)

    found, backbone = names["found"], names["backbone"]
    assert isinstance(backbone, DATAResNet)
    assert backbone.arch == found.winners[0].arch
    assert Path("runs/net/supernet.safetensors").is_file()
    assert Path("runs/detector/metrics.json").is_file()
    page = found._repr_html_()
    assert str(backbone.arch) in page
    assert "<svg" in page
    again = Search.read("runs/search")
    assert str(again) == str(found)
    assert again.winners[0].backbone().arch == backbone.arch
    assert str(found.winners[0].arch) in repr(found)
    assert len(repr(found)) < 1_000


def test_an_option_that_does_not_exist_is_a_type_error(tmp_path):
    from data_plugin import search_supernet

    with pytest.raises(TypeError, match="unexpected keyword argument 'image'"):
        search_supernet("s.safetensors", "faster_rcnn_c4_voc", out=tmp_path / "out", budget="flops<=1G", image=3)
