"""The way of a notebook: the snippet of the README runs as it is written."""

import dataclasses
import re
from pathlib import Path

import pytest
from samples import SMALL_C4

from data_plugin import DATAResNet
from data_plugin.frameworks.framework import Framework
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.search.found import Search
from data_plugin.search.strategies.sample import Sample

pytest.importorskip("lightly", reason="pre-training is not installed")
pytest.importorskip("mmdet", reason="no framework is installed")

from data_plugin.pretrain import run as pretraining


def snippet(checkout: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (checkout / "README.md").read_text(), re.S)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_snippet_of_the_readme_runs_as_written(checkout, tmp_path, monkeypatch):
    draw_voc(tmp_path / "VOCdevkit", train=2, test=2, size=(96, 64), seed=0, unlabelled=6)
    (tmp_path / "images").symlink_to(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages")
    monkeypatch.chdir(tmp_path)
    opened, read = Framework.open, pretraining.read_recipe

    def small(self, config, options=(), *more):
        return opened(self, config, [*options, *SMALL_C4[self.name]], *more)

    def short(*given):
        return dataclasses.replace(read(*given), epochs=1, batch_size=8)

    def few(self, space, budgets, seed):
        return {name: space.sample(5, seed, within) for name, within in budgets.items()}

    # So that a test can wait for them: the recipes' epochs and iterations, their images' size, the 100 networks drawn.
    monkeypatch.setattr(Framework, "open", small)
    monkeypatch.setattr(pretraining, "read_recipe", short)
    monkeypatch.setattr(Sample, "candidates", few)
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
