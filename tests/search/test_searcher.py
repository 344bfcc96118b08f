import numpy as np
import pytest
import torch
from samples import SPACE, random_batches
from torch import nn
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.features.prefix_tree import tree_order, walk
from data_plugin.images.batch import LoadedImage
from data_plugin.search.distances.relation import TeacherRelation
from data_plugin.search.searcher import search
from data_plugin.supernet.calibration import calibrate


@pytest.fixture(scope="module")
def supernet() -> tuple[DynamicResNet, DynamicResNet]:
    torch.manual_seed(0)
    query, key = DynamicResNet(SPACE), DynamicResNet(SPACE)
    for network in (query, key):  # statistics as after some training, so that the policies differ
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
    return query, key


def per_network(query, key, archs, data, taps, norm):
    """Every network on its own, from the image to its taps, in double loops."""
    found = np.zeros((len(taps), len(archs), sum(len(batch.names) for batch in data)))
    query.train(norm == "batch")
    key.train(norm == "batch")

    def network(supernet, arch):
        if norm != "recalibrated":
            return lambda images: supernet(images, arch)
        alone = extract(supernet, arch)
        calibrate([alone], [batch.images for batch in data])
        return alone

    teacher_network = network(key, SPACE.largest)
    with torch.no_grad():
        for a, arch in enumerate(archs):
            column = 0
            student_network = network(query, arch)
            for batch in data:
                teacher, student = teacher_network(batch.images), student_network(batch.images)
                for i, (h, w) in enumerate(batch.sizes):
                    for t, tap in enumerate(taps):
                        level, stride = int(tap[1]) - 2, 2 ** int(tap[1])
                        crop = (slice(i, i + 1), slice(None), slice(0, -(-h // stride)), slice(0, -(-w // stride)))
                        relation = TeacherRelation(teacher[level][crop])
                        found[t, a, column + i] = relation.distance(student[level][crop]).item()
                column += len(batch.names)
    return found


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
@pytest.mark.parametrize("taps", [("C5",), ("C2", "C4"), ("C2", "C3", "C4", "C5")])
def test_scores_equal_running_every_network_on_its_own(supernet, taps, norm):
    query, key = supernet
    archs = SPACE.sample(12, seed=3)
    data = random_batches([(64, 96), (64, 96)], [(96, 64)])
    result = search(query, key, archs, data, taps, norm=norm)
    state = {name: value.clone() for name, value in query.state_dict().items()}
    expected = per_network(query, key, result.archs, data, taps, norm)
    query.load_state_dict(state)
    assert set(result.archs) == set(archs)
    np.testing.assert_allclose(result.distances, expected, rtol=1e-4)
    assert result.images == ["0-0", "0-1", "1-0"]


def test_padding_is_not_compared(supernet):
    query, key = supernet
    archs = SPACE.sample(3, seed=0)
    alone = random_batches([(64, 64)])
    pixels = F.pad(alone.source[0].pixels, (0, 64))
    alone.source.images[0] = LoadedImage(pixels, (64, 64))
    full = search(query, key, archs, alone, ["C2"], norm="running").distances
    masked = per_network(query, key, tree_order(archs), alone, ("C2",), "running")
    np.testing.assert_allclose(full, masked, rtol=1e-5)
    alone.source.images[0] = LoadedImage(pixels, (64, 128))
    assert not np.allclose(full, search(query, key, archs, alone, ["C2"], norm="running").distances)


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
def test_search_leaves_the_supernet_as_it_was(supernet, norm):
    query, key = supernet
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in supernet]
    search(query, key, SPACE.sample(3, seed=0), random_batches([(64, 64)]), ["C5"], norm=norm)
    for network, state in zip(supernet, before, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.track_running_stats and m.momentum == 0.1 and not m.training for m in norms)


def test_walk_computes_every_distinct_prefix_once(supernet):
    query, _ = supernet
    archs = tree_order(list(SPACE))
    seen: list[tuple[int, int, int]] = []
    with torch.no_grad():
        walk(query.eval(), torch.randn(1, 3, 32, 32), archs, 3, lambda stage, x, a, b: seen.append((stage, a, b)))
    for stage in range(4):
        prefixes = {(a.stem, a.width[: stage + 1], a.depth[: stage + 1]) for a in archs}
        spans = [(a, b) for s, a, b in seen if s == stage]
        assert len(spans) == len(prefixes)
        assert sum(b - a for a, b in spans) == len(archs)


def test_ranking_margin_and_errors(supernet):
    query, key = supernet
    archs = SPACE.sample(6, seed=1)
    result = search(query, key, archs, random_batches([(64, 64)] * 3, [(64, 64)] * 2), ["C4", "C5"])
    totals = {arch: result.distances[:, i].sum(axis=0) for i, arch in enumerate(result.archs)}
    best = sorted(archs, key=lambda arch: totals[arch].mean())
    order = result.ranking(archs)
    assert [result.archs[i] for i in order] == best
    apart = totals[best[1]] - totals[best[0]]
    margin, error = result.margin(order[0], order[1])
    assert margin == pytest.approx(apart.mean())
    assert error == pytest.approx(apart.std(ddof=1) / 5**0.5)
    assert result.standard_errors[order[0]] == pytest.approx(totals[best[0]].std(ddof=1) / 5**0.5)


def test_drawn_rows_are_the_same_for_all_networks_however_the_images_come(supernet):
    query, key = supernet
    archs = SPACE.sample(4, seed=1)
    sizes = [(64, 96), (64, 64), (96, 64)]
    exact = search(query, key, archs, random_batches(sizes), ["C2", "C5"], norm="running")
    assert not exact.sampling_errors.any()
    drawn = search(query, key, archs, random_batches(sizes), ["C2", "C5"], norm="running", rows=40, seed=5)
    fewer = search(query, key, archs[:2], random_batches(sizes), ["C2", "C5"], norm="running", rows=40, seed=5)
    where = [drawn.archs.index(arch) for arch in fewer.archs]
    np.testing.assert_allclose(fewer.distances, drawn.distances[:, where], rtol=1e-6)
    np.testing.assert_allclose(drawn.distances[1], exact.distances[1], rtol=1e-6)  # C5 has no more positions than 40
    assert not np.allclose(drawn.distances[0], exact.distances[0], rtol=1e-6)
    assert (np.abs(drawn.scores - exact.scores) < 5 * drawn.sampling_errors).all()
    # Networks share their rows, so what they differ by is surer than what each one's score is.
    apart = (drawn.scores - drawn.scores[0]) - (exact.scores - exact.scores[0])
    assert np.abs(apart[1:]).max() < np.abs(drawn.scores - exact.scores).max()


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_features_in_lower_precision_give_nearly_the_same_distances(supernet, precision, norm):
    query, key = supernet
    archs = SPACE.sample(4, seed=1)
    data = random_batches([(64, 64)] * 2)
    full = search(query, key, archs, data, ["C2", "C3"], norm=norm)
    low = search(query, key, archs, data, ["C2", "C3"], norm=norm, precision=precision)
    np.testing.assert_allclose(low.distances, full.distances, rtol=0.02)
    assert not np.allclose(low.distances, full.distances, rtol=1e-5)
    assert low.distances.dtype == np.float64


def test_features_that_overflow_are_refused(supernet):
    query, key = supernet
    data = random_batches([(64, 64)])
    data.source.images[0].pixels.mul_(1e6)
    with pytest.raises(UserError, match="not finite in float16; search with --precision float32"):
        search(query, key, [SPACE.smallest], data, ["C5"], norm="running", precision="float16")


@pytest.mark.parametrize("norm", ["batch", "recalibrated"])
def test_prefixes_that_are_scored_already_are_not_compared_again(supernet, monkeypatch, norm):
    query, key = supernet
    data, taps, options = random_batches([(64, 96)] * 2, [(96, 64)]), ("C2", "C4", "C5"), {"norm": norm, "rows": 20}
    earlier = SPACE.sample(20, seed=1)
    later = [*SPACE.sample(20, seed=2), *earlier[:4]]
    estimate, compared = TeacherRelation.estimate, []

    def counted(relation: TeacherRelation, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not features.is_meta:  # on which memory is foreseen
            compared.append(features)
        return estimate(relation, features)

    monkeypatch.setattr(TeacherRelation, "estimate", counted)
    scored = search(query, key, earlier, data, taps, **options)

    def comparisons(archs, **more):
        compared.clear()
        return search(query, key, archs, data, taps, **options, **more), len(compared)

    expected, alone = comparisons(later)
    found, new = comparisons(later, scored=scored)
    both = comparisons([*earlier, *later])[1]
    assert new == both - comparisons(earlier)[1] < alone
    assert found.archs == expected.archs
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-6)
    np.testing.assert_allclose(found.sampling_variance, expected.sampling_variance, rtol=1e-3)
    assert (found.images, found.data_hash, found.parts) == (expected.images, expected.data_hash, expected.parts)
    again, none = comparisons(earlier[:3], scored=scored)
    assert none == 0
    assert again.ranking(earlier[:3]) == search(query, key, earlier[:3], data, taps, **options).ranking(earlier[:3])
    with pytest.raises(ValueError, match="other images or taps"):
        search(query, key, later, random_batches([(64, 64)]), taps, **options, scored=scored)


@pytest.mark.parametrize("size", [(65, 97), (63, 33), (50, 71)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
        {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), "contract_dilation": True},
    ],
)
def test_scores_at_any_stride_dilation_and_size_equal_running_every_network_on_its_own(supernet, options, size):
    query, key = (branch.with_options(**options) for branch in supernet)
    archs = SPACE.sample(6, seed=3)
    data = random_batches([size] * 2, [size[::-1]])
    result = search(query, key, archs, data, ("C2", "C3", "C4", "C5"), norm="batch")
    query.train(), key.train()
    start = 0
    for batch in data:
        with torch.no_grad():
            teachers = [TeacherRelation(features) for features in key(batch.images, SPACE.largest)]
            for i, arch in enumerate(result.archs):
                for t, features in enumerate(query(batch.images, arch)):
                    found = result.distances[t, i, start : start + len(batch.names)]
                    np.testing.assert_allclose(found, teachers[t].distance(features), rtol=1e-4)
        start += len(batch.names)


def test_progress_counts_networks_per_batch(supernet):
    query, key = supernet
    archs = SPACE.sample(7, seed=1)
    counts: list[int] = []
    search(query, key, archs, random_batches([(64, 64)], [(64, 64)]), ["C3"], progress=counts.append)
    assert sum(counts) == 2 * len(archs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archs": []}, "no network"),
        ({"batches": random_batches()}, "no image"),
        ({"taps": ["C6"]}, "C6"),
        ({"norm": "group"}, "group"),
        ({"precision": "float8"}, "float8"),
        ({"rows": 1}, "1 rows"),
    ],
)
def test_bad_input(supernet, change, message):
    query, key = supernet
    arguments = {"archs": [SPACE.smallest], "batches": random_batches([(64, 64)]), "taps": ["C5"], **change}
    with pytest.raises(UserError, match=message):
        search(query, key, **arguments)
