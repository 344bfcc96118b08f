"""The way of a notebook: the snippet of the README runs as it is written."""

import argparse
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from samples import SMALL_C4

from data_plugin import DATAResNet, cluster_store, embed_images, route_supernet, search_supernet, select_coreset
from data_plugin.frameworks.framework import Framework
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.search.found import Search
from data_plugin.search.options import SearchOptions
from data_plugin.search.strategies.sample import Sample
from data_plugin.tools import cluster as cluster_tool
from data_plugin.tools import embed as embed_tool
from data_plugin.tools import pretrain as pretrain_tool
from data_plugin.tools import route as route_tool
from data_plugin.tools import search_cls
from data_plugin.tools import select_coreset as select_tool
from data_plugin.tools.search_config_cli import add_config_search_arguments

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


def parameters(function):
    return dict(inspect.signature(function).parameters)


def defaults_of_tool(parser, alone, renamed):
    """What a tool's options are if nobody gives them, by the names that they have in Python.

    Args:
        parser: the tool's.
        alone: options that the tool alone has, since Python has another way.
        renamed: names in Python of those that have another there.
    """
    actions = {each.dest: each for each in parser._actions if each.dest != "help"}
    assert alone | renamed.keys() <= actions.keys()
    found = {renamed.get(name, name): action for name, action in actions.items() if name not in alone}
    return {name: inspect.Parameter.empty if each.required else each.default for name, each in found.items()}


def test_pretraining_has_the_options_of_its_tool_with_their_defaults():
    recipes = {"epochs", "batch_size", "image_size", "lr", "teacher", "sampler", "norm_statistics"}
    labelled = {"knn_train", "knn_val", "knn_every"}
    tool = defaults_of_tool(pretrain_tool.parser(), recipes | labelled, {"data": "images", "opts": "changes"})
    found = parameters(pretraining.pretrain_supernet)
    assert found.keys() - tool.keys() == {"knn"}
    assert (found["changes"].default, tool["changes"]) == ((), [])
    same = tool.keys() - {"space", "changes"}  # the tool has to be told the space
    assert {name: found[name].default for name in same} == {name: tool[name] for name in same}


def test_embedding_and_selection_have_the_options_of_their_tools_with_their_defaults():
    network = defaults_of_tool(embed_tool.parser(), set(), {})
    embedding = (network.keys() - {"images", "out", "overwrite"}) | {"open_data", "target_data"}  # Python embeds first
    chosen = defaults_of_tool(select_tool.parser(), embedding, {"open": "open_set"})
    for function, tool, alone in ((embed_images, network, {"seed"}), (select_coreset, chosen, set())):
        found = parameters(function)
        assert found.keys() - tool.keys() == alone
        same = tool.keys() - {"open_set", "target"}  # which the tool may be given as images
        assert {name: found[name].default for name in same} == {name: tool[name] for name in same}


def test_clustering_has_the_options_of_its_tool_with_their_defaults():
    found = {name: each.default for name, each in parameters(cluster_store).items()}
    assert found == defaults_of_tool(cluster_tool.parser(), set(), {})


def test_routing_has_the_options_of_its_tool_with_their_defaults():
    tool = defaults_of_tool(route_tool.parser(), {"imports"}, {"opts": "options"})
    found = {name: each.default for name, each in parameters(route_supernet).items()}
    assert found == tool | {"options": ()}


def test_a_search_has_the_options_of_its_tool_with_their_defaults():
    parser = argparse.ArgumentParser()
    add_config_search_arguments(parser, "detection", example="")
    strategies = {"samples", "exhaustive", "evolve", "population", "generations", "halve"}
    # Routing is a call of its own, route_supernet.
    alone = {"demo_data", "imports", "finetune", "route", "dry_run", *strategies}
    tool = defaults_of_tool(parser, alone, {"all_groups": "every_group", "opts": "options"})
    found = parameters(search_supernet)
    assert found.keys() - tool.keys() == {"strategy", "task", "image_size"}
    lists, told = {"budget", "group", "options"}, {"supernet", "out"}  # Python has to be told what the tool finds
    assert all(found[name].default == () and tool[name] == [] for name in lists)
    assert all(found[name].default is inspect.Parameter.empty for name in told)
    same = tool.keys() - lists - told
    assert {name: found[name].default for name in same} == {name: tool[name] for name in same}
    assert found["strategy"].default == Sample(parser.get_default("samples"))


def test_a_search_for_classification_has_the_options_of_its_tool_with_their_defaults():
    strategies = {"samples", "exhaustive", "evolve", "population", "generations", "halve"}
    tool = defaults_of_tool(
        search_cls.parser(), {"dry_run", *strategies}, {"images": "config", "all_groups": "every_group"}
    )
    found = parameters(search_supernet)
    config = {"task", "framework", "data_root", "images", "classes", "options"}
    assert found.keys() - tool.keys() == {"strategy", *config}
    same = tool.keys() - {"budget", "group", "supernet", "out"}
    assert {name: found[name].default for name in same} == {name: tool[name] for name in same}


def test_a_search_takes_every_option_as_search_options_has_it():
    found, options = parameters(search_supernet), parameters(SearchOptions)
    assert found.keys() - {"budget", "group"} == options.keys() - {"budgets"}
    wider = {"config", "out", "data_root"}  # which may be text, or paths
    for name in options.keys() - {"budgets", "supernet", *wider}:
        assert (found[name].annotation, found[name].default) == (options[name].annotation, options[name].default)


def test_an_option_that_does_not_exist_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'image'"):
        search_supernet("s.safetensors", "faster_rcnn_c4_voc", out=tmp_path / "out", budget="flops<=1G", image=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        pretraining.pretrain_supernet(tmp_path, out=tmp_path / "out", step=3)
