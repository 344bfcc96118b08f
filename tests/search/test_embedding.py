"""Search by the tap z: embeddings of the pre-training's heads (DATA, Eq. 3) against naive ones."""

import json
import math

import numpy as np
import pytest
import torch
from samples import SPACE, TEACHER, random_batches
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.recipe import METHODS, Recipe
from data_plugin.search.distances.embedding import trained_heads
from data_plugin.search.searcher import Searcher
from data_plugin.search.taps import parse_taps
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, save_supernet
from data_plugin.tools import search_det

pytest.importorskip("lightly", reason="heads need lightly")

FEATURES = SPACE.largest.out_channels[-1]
SETTINGS = {
    "mocov2": {"hidden": 24, "dim": 8},
    "mocov2_symmetric": {"hidden": 24, "dim": 8},
    "byol": {"hidden": 24, "dim": 8},
    "simclr": {"hidden": 24, "dim": 8},
    "simsiam": {"hidden": 24, "dim": 8, "predictor_hidden": 6},
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


def layers(heads, x: torch.Tensor, prefix: str, statistics) -> torch.Tensor:
    """A head of linear layers, batch norms and ReLUs from its weights; of the first layer, what ``x`` needs.

    Args:
        heads: the weights.
        x: (N, C).
        prefix: the head's name.
        statistics: makes of a norm's entry and its input (N, C) the mean and variance to normalise with.
    """
    numbers = sorted({int(name[len(prefix) :].split(".")[0]) for name in heads if name.startswith(prefix)})
    for number in range(numbers[-1] + 1):
        entry = {name.split(".")[-1]: value for name, value in heads.items() if name.startswith(f"{prefix}{number}.")}
        if "running_mean" in entry:
            mean, var = statistics(f"{prefix}{number}", entry, x)
            x = (x - mean) / (var + 1e-5).sqrt()
            x = x * entry.get("weight", 1) + entry.get("bias", 0)
        elif entry:
            x = x @ entry["weight"][:, : x.shape[1]].T + entry.get("bias", 0)
        else:
            x = x.clamp_min(0)
    return x


def embeddings(found: Supernet, branch: str, pooled: torch.Tensor, statistics) -> torch.Tensor:
    """z (N, dim) of C5 averaged over each image's own positions, (N, C)."""
    if found.info.method in ("densecl", "distill"):
        return layers(found.heads, pooled, f"{branch}.whole.layers.", statistics)
    x = layers(found.heads, pooled, f"{branch}.layers.", statistics)
    if found.info.method in ("byol", "simsiam") and branch == "query":
        x = layers(found.heads, x, "predictor.layers.", statistics)
    return x


def running(name, entry, x):
    return entry["running_mean"], entry["running_var"]


def of_the_batch(name, entry, x):
    return x.mean(dim=0), x.var(dim=0, unbiased=False)


def own_means(c5: torch.Tensor, batch) -> torch.Tensor:
    """C5 averaged over the positions that are not padding."""
    sizes = [(math.ceil(h / 32), math.ceil(w / 32)) for h, w in batch.sizes]
    return torch.stack([image[:, :h, :w].mean(dim=(1, 2)) for image, (h, w) in zip(c5, sizes, strict=True)])


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
@pytest.mark.parametrize("method", METHODS)
def test_distances_are_cosines_of_the_two_branches_embeddings(method, norm):
    """Batch norms in the heads follow the policy as those of the networks do: a head's own mix all networks."""
    found = supernet(method)
    archs = SPACE.sample(6, seed=3)
    data = random_batches([(64, 96), (64, 64), (96, 96), (64, 64)], [(96, 64)] * 3)
    result = Searcher(found, ["z"], norm=norm).measure(archs, data)

    def pool(branch, arch, train):
        alone = extract(branch, arch)
        if norm == "recalibrated":
            calibrate([alone], [batch.images for batch in data])
        return [own_means(alone.train(train)(batch.images)[-1], batch) for batch in data]

    def embed(side, branch, arch):
        """z of each batch's images."""
        with torch.no_grad():
            pooled = pool(branch, arch, norm == "batch")
            if norm == "running":
                return [embeddings(found, side, x, running) for x in pooled]
            if norm == "batch":
                return [embeddings(found, side, x, of_the_batch) for x in pooled]
            taken: dict[str, list] = {}

            def take(name, entry, x):
                taken.setdefault(name, []).append((x.mean(dim=0), x.var(dim=0)))
                return of_the_batch(name, entry, x)

            for x in pool(branch, arch, True):  # as the networks' own statistics are taken
                embeddings(found, side, x, take)
            means = {
                name: [torch.stack(v).mean(dim=0) for v in zip(*values, strict=True)] for name, values in taken.items()
            }
            return [embeddings(found, side, x, lambda name, entry, x: means[name]) for x in pooled]

    teacher = embed("key", found.key, SPACE.largest)
    for arch in archs:
        student = embed("query", found.query, arch)
        expected = torch.cat([1 - F.cosine_similarity(z, t) for z, t in zip(student, teacher, strict=True)])
        np.testing.assert_allclose(result.per_image([result.index[arch]])[0], expected, rtol=3e-3)
    assert result.scores.std() > 0.02 * result.scores.mean()


def test_a_batch_of_one_image_has_no_statistics_for_the_heads():
    data = random_batches([(64, 64)])
    with pytest.raises(UserError, match="a batch of one image has no batch statistics in the heads"):
        Searcher(supernet("byol"), ["z"]).measure([SPACE.smallest], data)


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


def test_tool_searches_by_z(config, arguments, tmp_path, capsys):
    path, out = tmp_path / "supernet.safetensors", tmp_path / "out"
    save_supernet(path, supernet())
    assert search_det.main(arguments(out, "--taps", "z", supernet=path)) == 0
    found = json.loads((out / "search.json").read_text())
    assert found["taps"] == ["z"]
    assert all(0 < row["taps"]["z"] == row["score"] < 2 for row in found["candidates"])
    assert "cosine distance" in capsys.readouterr().out
    save_supernet(path, Supernet(supernet(training={}).info, *(DynamicResNet(SPACE) for _ in range(2))))
    assert search_det.main(arguments(tmp_path / "none", "--taps", "z", supernet=path)) == 2
    assert "does not say which heads trained it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_z_stands_alone_and_has_no_rows():
    assert parse_taps("z") == ("z",)
    with pytest.raises(UserError, match="search by z alone"):
        parse_taps("C5,z")
    with pytest.raises(UserError, match="no rows to draw"):
        Searcher(supernet(), ["z"], rows=4)
