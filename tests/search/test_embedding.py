"""Search by the tap z: embeddings of the pre-training's heads (DATA, Eq. 3) against naive ones."""

import json
import math

import pytest
import torch
from samples import SPACE, TEACHER, random_batches

from data_plugin import UserError
from data_plugin.backbones import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.recipe import METHODS, Recipe
from data_plugin.search.distances.embedding import trained_heads
from data_plugin.search.searcher import search
from data_plugin.search.taps import parse_taps
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, save_supernet
from data_plugin.tools import search_det

pytest.importorskip("lightly", reason="heads need lightly")

FEATURES = SPACE.largest.out_channels[-1]
SETTINGS = {
    "mocov2": {"hidden": 24, "dim": 8},
    "byol": {"hidden": 24, "dim": 8},
    "ressl": {"hidden": 24, "dim": 8},
    "densecl": {"hidden": 24, "dim": 8},
    "distill": {**TEACHER, "hidden": 24, "dim": 8},
}


def recipe(method: str) -> Recipe:
    values = {"epochs": 1, "batch_size": 4, "image_size": 40, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
    values |= {"weight_decay": 1e-4, "key_momentum": 0.9, "method": method, "settings": SETTINGS[method]}
    return Recipe.from_json(values)


def supernet(method: str = "mocov2", training=None) -> Supernet:
    """One with heads whose branches differ, and whose batch norms have seen something."""
    torch.manual_seed(0)
    built = recipe(method).build_method(FEATURES)
    for value in built.heads().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    training = {"recipe": recipe(method).to_json()} if training is None else training
    info = SupernetInfo(SPACE, method, InputFormat.imagenet(), training)
    return Supernet(info, DynamicResNet(SPACE).eval(), DynamicResNet(SPACE).eval(), built.heads())


def layers(heads, x: torch.Tensor, prefix: str) -> torch.Tensor:
    """A head of linear layers, batch norms and ReLUs from its weights; of the first layer, what ``x`` needs."""
    numbers = sorted({int(name[len(prefix) :].split(".")[0]) for name in heads if name.startswith(prefix)})
    for number in range(numbers[-1] + 1):
        entry = {name.split(".")[-1]: value for name, value in heads.items() if name.startswith(f"{prefix}{number}.")}
        if "running_mean" in entry:
            x = (x - entry["running_mean"]) / (entry["running_var"] + 1e-5).sqrt()
            x = x * entry["weight"] + entry["bias"]
        elif entry:
            x = x @ entry["weight"][:, : x.shape[1]].T + entry.get("bias", 0)
        else:
            x = x.clamp_min(0)
    return x


def embedding(found: Supernet, branch: str, c5: torch.Tensor) -> torch.Tensor:
    """z of one image's C5 (C, H, W)."""
    x = c5.mean(dim=(1, 2))[None]
    if found.info.method in ("densecl", "distill"):
        return layers(found.heads, x, f"{branch}.whole.layers.")[0]
    x = layers(found.heads, x, f"{branch}.layers.")
    if found.info.method == "byol" and branch == "query":
        x = layers(found.heads, x, "predictor.layers.")
    return x[0]


@pytest.mark.parametrize("method", METHODS)
def test_distances_are_cosines_of_the_two_branches_embeddings(method):
    found = supernet(method)
    archs = SPACE.sample(6, seed=3)
    data = random_batches([(64, 96), (64, 64)], [(96, 64)])
    result = search(found.query, found.key, archs, data, ["z"], norm="running", heads=trained_heads(found, "x"))
    assert result.distances.shape == (1, 6, 3)
    with torch.no_grad():
        for a, arch in enumerate(result.archs):
            column = 0
            for batch in data:
                teacher = found.key(batch.images, SPACE.largest)[-1]
                student = found.query(batch.images, arch)[-1]
                for i, (h, w) in enumerate(batch.sizes):
                    own = (i, slice(None), slice(0, math.ceil(h / 32)), slice(0, math.ceil(w / 32)))
                    z, z_key = embedding(found, "query", student[own]), embedding(found, "key", teacher[own])
                    cosine = float(z @ z_key / (z.norm() * z_key.norm()))
                    assert result.distances[0, a, column] == pytest.approx(1 - cosine, abs=1e-5)
                    column += 1
    assert result.distances.std() > 1e-4


def test_the_authors_release_has_heads_of_the_widths_in_its_file():
    found = supernet(training={"imported": {}})
    heads = trained_heads(found, "x")
    assert all(torch.equal(value, found.heads[name]) for name, value in heads.heads().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {}, "method": "byol"}, "x does not say which heads trained it"),
        ({"heads": {}}, "x .*8 missing"),
    ],
)
def test_heads_that_are_unknown_or_missing_are_refused(change, message):
    found = supernet(change.get("method", "mocov2"), change.get("training"))
    with pytest.raises(UserError, match=message):
        trained_heads(Supernet(found.info, found.query, found.key, change.get("heads", found.heads)), "x")


def test_tool_searches_by_z(adapter, tmp_path, capsys):
    path, out = tmp_path / "supernet.safetensors", tmp_path / "out"
    save_supernet(path, supernet())
    arguments = ["--config", "faster_rcnn_c4_voc", "--supernet", str(path), "--group", "0-1", "--taps", "z"]
    assert search_det.main([*arguments, "--out", str(out)]) == 0
    found = json.loads((out / "search.json").read_text())
    assert found["taps"] == ["z"]
    assert all(0 < row["taps"]["z"] == row["score"] < 2 for row in found["candidates"])
    save_supernet(path, Supernet(supernet(training={}).info, *(DynamicResNet(SPACE) for _ in range(2))))
    assert search_det.main([*arguments, "--out", str(tmp_path / "none")]) == 2
    assert "does not say which heads trained it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_z_stands_alone_and_needs_heads():
    assert parse_taps("z") == ("z",)
    with pytest.raises(UserError, match="search by z alone"):
        parse_taps("C5,z")
    found, data = supernet(), random_batches([(64, 64)])
    for options in ({}, {"heads": trained_heads(found, "x"), "rows": 4}):
        with pytest.raises(UserError, match="needs the pre-training's heads, and has no rows"):
            search(found.query, found.key, [SPACE.smallest], data, ["z"], **options)
