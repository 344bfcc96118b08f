import numpy as np
import pytest
import torch
from samples import SPACE, random_batches, random_supernet
from torch import nn
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.backbones import extract
from data_plugin.features.prefix_tree import tree_order, walk
from data_plugin.images.batch import LoadedImage
from data_plugin.search.distances.relation import TeacherRelation
from data_plugin.search.result import SearchResult
from data_plugin.search.searcher import Searcher
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import Supernet


def by_tap(result: SearchResult) -> np.ndarray:
    """Divergences per tap, network and image."""
    return np.stack([tap.values[tap.rows] for tap in result.taps.values()])


def divergence(teacher: torch.Tensor, student: torch.Tensor, reduction: str = "mean") -> float:
    """Eq. 4 and 5 of DATA with whole matrices, less the teacher's distance to itself, on maps (C, H, W)."""
    columns = [F.normalize(features.flatten(1).double(), dim=0) for features in (teacher, student)]
    target, logits = (each.T @ each / 0.2 for each in columns)
    rows = (target.softmax(1) * (target.log_softmax(1) - logits.log_softmax(1))).sum(1)
    return float(rows.mean() if reduction == "mean" else rows.sum())


def per_network(supernet: Supernet, archs, data, taps, norm: str, reduction: str = "mean", **options) -> np.ndarray:
    """Every network on its own, from the image to its taps, in double loops."""
    found = np.zeros((len(taps), len(archs), sum(len(batch.names) for batch in data)))

    def network(branch, arch):
        alone = extract(branch, arch, **options)
        if norm == "recalibrated":
            calibrate([alone], [batch.images for batch in data])
        return alone.train(norm == "batch")

    teacher_network = network(supernet.key, SPACE.largest)
    with torch.no_grad():
        for a, arch in enumerate(archs):
            column = 0
            student_network = network(supernet.query, arch)
            for batch in data:
                teacher, student = teacher_network(batch.images), student_network(batch.images)
                for i, (h, w) in enumerate(batch.sizes):
                    for t, tap in enumerate(taps):
                        level = int(tap[1]) - 2
                        down, across = (batch.images.shape[s] / teacher[level].shape[s] for s in (2, 3))
                        own = (i, slice(None), slice(0, int(np.ceil(h / down))), slice(0, int(np.ceil(w / across))))
                        found[t, a, column + i] = divergence(teacher[level][own], student[level][own], reduction)
                column += len(batch.names)
    return found


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
@pytest.mark.parametrize("taps", [("C5",), ("C2", "C4"), ("C2", "C3", "C4", "C5")])
def test_scores_equal_running_every_network_on_its_own(supernet, taps, norm):
    archs = SPACE.sample(12, seed=3)
    data = random_batches([(64, 96), (64, 96)], [(96, 64)])
    result = Searcher(supernet, taps, norm=norm).measure(archs, data)
    assert set(result.archs) == set(archs)
    np.testing.assert_allclose(by_tap(result), per_network(supernet, result.archs, data, taps, norm), rtol=1e-3)
    np.testing.assert_allclose(result.scores, by_tap(result).mean(axis=2).sum(axis=0))
    assert result.images == ["0-0", "0-1", "1-0"]


@pytest.mark.cuda
@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
def test_a_gpu_gives_the_scores_of_running_every_network_on_its_own(supernet, norm, cuda):
    archs, data, taps = SPACE.sample(6, seed=3), random_batches([(64, 96), (64, 96)], [(96, 64)]), ("C2", "C5")
    result = Searcher(supernet.at(cuda), taps, norm=norm).measure(archs, data)
    expected = per_network(supernet.at(torch.device("cpu")), result.archs, data, taps, norm)
    np.testing.assert_allclose(by_tap(result), expected, rtol=2e-2, atol=1e-4)  # convolutions in TF32


def test_a_sum_over_positions_is_what_eq_5_prints(supernet):
    archs, data, taps = SPACE.sample(4, seed=3), random_batches([(64, 96)]), ("C2", "C5")
    result = Searcher(supernet, taps, reduction="sum", norm="running").measure(archs, data)
    expected = per_network(supernet, result.archs, data, taps, "running", "sum")
    np.testing.assert_allclose(by_tap(result), expected, rtol=1e-3)
    mean = Searcher(supernet, taps, norm="running").measure(archs, data)
    for tap, positions in (("C2", 16 * 24), ("C5", 2 * 3)):
        np.testing.assert_allclose(result.taps[tap].values, positions * mean.taps[tap].values, rtol=1e-6)


def test_every_tap_counts_alike_and_the_sum_is_decided_by_the_largest_map():
    """With as many positions as a detector's images have, the summed distance ranks networks by stage 1 alone."""
    taps, data = ("C2", "C3", "C4", "C5"), random_batches([(192, 256)])
    archs = SPACE.sample(40, seed=0)
    found = {r: Searcher(random_supernet(), taps, reduction=r).measure(archs, data) for r in ("mean", "sum")}
    shares = {}
    for reduction, result in found.items():
        columns = [tap.scores for tap in result.taps.values()]
        shares[reduction] = np.cov(columns[0], result.scores)[0, 1] / result.scores.var(ddof=1)
    assert shares["sum"] > 0.9
    assert shares["mean"] < 0.7


def test_the_teacher_diverges_from_itself_by_nothing(supernet):
    twins = Supernet(supernet.info, supernet.key, supernet.key)
    result = Searcher(twins, ("C3", "C5")).measure([SPACE.largest, SPACE.smallest], random_batches([(64, 64)] * 2))
    own, other = (result.scores[result.index[arch]] for arch in (SPACE.largest, SPACE.smallest))
    assert abs(own) < 1e-6 < other
    assert result.entropy > other  # most of a distance is the same for all


def test_padding_is_not_compared(supernet):
    archs = SPACE.sample(3, seed=0)
    alone = random_batches([(64, 64)])
    pixels = F.pad(alone.source[0].pixels, (0, 64))
    alone.source.images[0] = LoadedImage(pixels, (64, 64))
    searcher = Searcher(supernet, ["C2"], norm="running")
    full = by_tap(searcher.measure(archs, alone))
    np.testing.assert_allclose(full, per_network(supernet, tree_order(archs), alone, ("C2",), "running"), rtol=1e-3)
    alone.source.images[0] = LoadedImage(pixels, (64, 128))
    assert not np.allclose(full, by_tap(searcher.measure(archs, alone)))


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
def test_search_leaves_the_supernet_as_it_was(supernet, norm):
    networks = (supernet.query, supernet.key)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    searcher = Searcher(supernet, ["C5"], norm=norm)
    searcher.measure(SPACE.sample(3, seed=0), random_batches([(64, 64)]))
    searcher.extract(SPACE.sample(2, seed=0), random_batches([(64, 64)]))
    for network, state in zip(networks, before, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.track_running_stats and m.momentum == 0.1 and not m.training for m in norms)


def test_walk_computes_every_distinct_prefix_once(supernet):
    archs = tree_order(list(SPACE))
    seen: list[tuple[int, int, int]] = []
    with torch.no_grad():
        walk(supernet.query, torch.randn(1, 3, 32, 32), archs, 3, lambda stage, x, a, b: seen.append((stage, a, b)))
    for stage in range(4):
        prefixes = {(a.stem, a.width[: stage + 1], a.depth[: stage + 1]) for a in archs}
        spans = [(a, b) for s, a, b in seen if s == stage]
        assert len(spans) == len(prefixes)
        assert sum(b - a for a, b in spans) == len(archs)


def test_what_networks_share_is_kept_once(supernet):
    """The whole space of the paper at 4 taps and 256 images is 195 MB so, and 699 MB by network."""
    archs = list(SPACE)
    result = Searcher(supernet, ("C2", "C3", "C4", "C5")).measure(archs, random_batches([(64, 64)]))
    maps = [len({(a.stem, a.width[:n], a.depth[:n]) for a in archs}) for n in (1, 2, 3, 4)]
    assert [len(tap.values) for tap in result.taps.values()] == maps
    assert maps[0] < maps[1] < maps[2] < maps[3] == len(archs)


def test_ranking_leads_and_errors(supernet):
    archs = SPACE.sample(6, seed=1)
    data = random_batches([(64, 64)] * 3, [(64, 64)] * 2)
    result = Searcher(supernet, ["C4", "C5"]).measure(archs, data)
    totals = {arch: by_tap(result)[:, i].sum(axis=0) for i, arch in enumerate(result.archs)}
    best = sorted(archs, key=lambda arch: totals[arch].mean())
    order = result.ranking(archs)
    assert [result.archs[i] for i in order] == best
    means, errors = result.apart(order[0], order[1:])
    for mean, error, arch in zip(means, errors, best[1:], strict=True):
        apart = totals[arch] - totals[best[0]]
        assert mean == pytest.approx(apart.mean())
        assert error == pytest.approx(apart.std(ddof=1) / 5**0.5)
    assert result.standard_errors[order[0]] == pytest.approx(totals[best[0]].std(ddof=1) / 5**0.5)


def test_drawn_rows_are_the_same_for_all_networks_however_the_images_come(supernet):
    archs = SPACE.sample(4, seed=1)
    taps, data = ["C2", "C5"], random_batches([(64, 96), (64, 64), (96, 64)])
    exact = Searcher(supernet, taps, norm="running").measure(archs, data)
    assert not exact.sampling_errors.any()
    searcher = Searcher(supernet, taps, norm="running", rows=40, seed=5)
    drawn, fewer = searcher.measure(archs, data), searcher.measure(archs[:2], data)
    where = [drawn.index[arch] for arch in fewer.archs]
    np.testing.assert_allclose(by_tap(fewer), by_tap(drawn)[:, where], rtol=1e-4)
    np.testing.assert_allclose(by_tap(drawn)[1], by_tap(exact)[1], rtol=1e-4)  # C5 has no more positions than 40
    assert not np.allclose(by_tap(drawn)[0], by_tap(exact)[0], rtol=1e-4)
    assert (np.abs(drawn.scores - exact.scores) < 5 * drawn.sampling_errors).all()


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_features_in_lower_precision_give_nearly_the_same_divergences(supernet, precision, norm):
    archs = SPACE.sample(4, seed=1)
    data = random_batches([(64, 64)] * 2)
    full = by_tap(Searcher(supernet, ["C2", "C3"], norm=norm).measure(archs, data))
    low = by_tap(Searcher(supernet, ["C2", "C3"], norm=norm, precision=precision).measure(archs, data))
    np.testing.assert_allclose(low, full, rtol=0.05)
    assert not np.allclose(low, full, rtol=1e-5)
    assert low.dtype == np.float64


def test_features_that_overflow_are_refused(supernet):
    data = random_batches([(64, 64)])
    data.source.images[0].pixels.mul_(1e6)
    searcher = Searcher(supernet, ["C5"], norm="running", precision="float16")
    with pytest.raises(UserError, match="not finite in float16; search with --precision float32"):
        searcher.measure([SPACE.smallest], data)


@pytest.mark.parametrize("norm", ["batch", "recalibrated"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_what_an_earlier_measurement_found_is_not_measured_again(supernet, monkeypatch, norm, comes_back):
    data, taps, options = random_batches([(64, 96)] * 2, [(96, 64)]), ("C2", "C4", "C5"), {"norm": norm, "rows": 20}
    earlier = SPACE.sample(20, seed=1)
    later = [*SPACE.sample(20, seed=2), *earlier[:4]]
    estimate, compared = TeacherRelation.estimate, []
    read: list[int] = []
    get = type(data.source).__getitem__

    def counted(relation: TeacherRelation, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not features.is_meta:  # on which memory is foreseen
            compared.append(features)
        return estimate(relation, features)

    monkeypatch.setattr(TeacherRelation, "estimate", counted)
    monkeypatch.setattr(type(data.source), "__getitem__", lambda source, i: (read.append(i), get(source, i))[1])
    searcher = Searcher(supernet, taps, **options)

    def comparisons(measure, archs):
        compared.clear()
        read.clear()
        return measure(archs), len(compared)

    expected, alone = comparisons(lambda archs: searcher.measure(archs, data), later)
    of_earlier = comparisons(lambda archs: searcher.measure(archs, data), earlier)[1]
    both = comparisons(lambda archs: searcher.measure(archs, data), [*earlier, *later])[1]
    measurement = searcher.on(data, comes_back=comes_back)
    measurement.measure(earlier)
    found, new = comparisons(measurement.measure, later)
    assert new == both - of_earlier < alone
    assert (not read) is comes_back  # images are kept for later calls, if such were announced
    assert found.archs == expected.archs
    np.testing.assert_allclose(by_tap(found), by_tap(expected), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sampling_errors, expected.sampling_errors, rtol=1e-3)
    assert (found.images, found.data_hash, found.parts) == (expected.images, expected.data_hash, expected.parts)
    again, none = comparisons(measurement.measure, earlier[:3])
    assert none == 0
    assert again.ranking(earlier[:3]) == searcher.measure(earlier[:3], data).ranking(earlier[:3])


def test_the_teacher_runs_once_a_batch_however_often_one_comes_back(supernet, monkeypatch):
    measurement = Searcher(supernet, ["C5"]).on(random_batches([(64, 64)] * 2, [(64, 64)]), comes_back=True)
    walked, walk_teacher = [], measurement.teacher.walk
    monkeypatch.setattr(measurement.teacher, "walk", lambda *given: (walked.append(1), walk_teacher(*given))[1])
    for seed in range(3):
        measurement.measure(SPACE.sample(4, seed=seed))
    assert len(walked) == 2


def test_statistics_are_taken_once_however_often_one_comes_back(supernet, monkeypatch):
    data = random_batches([(64, 64)] * 2, [(64, 64)])
    searcher = Searcher(supernet, ["C3", "C5"], norm="recalibrated")
    measurement = searcher.on(data, comes_back=True)
    taken: list[tuple[str, tuple[str, ...]]] = []
    for name in ("teacher", "students"):
        side = getattr(measurement, name)

        def calibrate(archs, images, visit, name=name, whole=side.calibrate):
            taken.append((name, tuple(map(str, archs))))
            whole(archs, images, visit)

        monkeypatch.setattr(side, "calibrate", calibrate)
    first, second = SPACE.sample(4, seed=0), SPACE.sample(4, seed=1)
    for batches in ([0], [0, 1]):  # as halving comes back to the networks that are left
        measurement.measure(first, batches)
    found = measurement.measure(second)
    assert [name for name, _ in taken] == ["teacher", "students", "students"]
    assert set(taken[1][1]) == set(map(str, first))
    assert set(taken[2][1]) == set(map(str, second)) - set(map(str, first))
    np.testing.assert_allclose(by_tap(found), by_tap(searcher.measure(second, data)), rtol=1e-6)


def test_networks_may_see_more_images_later(supernet):
    archs, data = SPACE.sample(6, seed=1), random_batches([(64, 64)], [(64, 96)], [(96, 64)])
    searcher = Searcher(supernet, ["C3", "C5"])
    measurement = searcher.on(data)
    few = measurement.measure(archs, [0])
    assert few.images == ["0-0"]
    more = measurement.measure(archs[:3], [0, 1, 2])
    whole = searcher.measure(archs[:3], data)
    np.testing.assert_allclose(by_tap(more), by_tap(whole), rtol=1e-6)
    assert more.data_hash == whole.data_hash


@pytest.mark.parametrize("size", [(65, 97), (63, 33), (50, 71)])
@pytest.mark.parametrize(
    "resolution",
    [
        Resolution(),
        Resolution((1, 2, 1, 1), (1, 1, 2, 4)),
        Resolution((1, 2, 2, 1), (1, 1, 1, 2), contract_dilation=True),
    ],
)
def test_scores_at_any_stride_dilation_and_size_equal_running_every_network_on_its_own(supernet, resolution, size):
    options = resolution.options()
    moved = Supernet(supernet.info, *(b.with_options(**options) for b in (supernet.query, supernet.key)))
    archs, taps = SPACE.sample(6, seed=3), ("C2", "C3", "C4", "C5")
    data = random_batches([size] * 2, [size[::-1]])
    result = Searcher(moved, taps).measure(archs, data)
    expected = per_network(moved, result.archs, data, taps, "batch", **options)
    np.testing.assert_allclose(by_tap(result), expected, rtol=2e-3)


def test_extracted_networks_have_statistics_of_their_own(supernet):
    archs, data = SPACE.sample(5, seed=4), random_batches([(64, 64)] * 2, [(64, 96)])
    seen: list[int] = []
    networks = Searcher(supernet, ["C2"]).extract(archs, data, seen.append)
    assert [network.arch for network in networks] == archs
    assert sum(seen) == 3
    for network in networks:
        alone = extract(supernet.query, network.arch)
        calibrate([alone], [batch.images for batch in data])
        assert not network.training
        for name, value in alone.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def test_progress_counts_networks_per_batch(supernet):
    archs = SPACE.sample(7, seed=1)
    counts: list[float] = []
    searcher = Searcher(supernet, ["C3"])
    searcher.on(random_batches([(64, 64)], [(64, 64)]), progress=counts.append).measure(archs)
    assert sum(counts) == 2 * len(archs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archs": []}, "no network"),
        ({"batches": random_batches()}, "no image"),
        ({"taps": ["C6"]}, "C6"),
        ({"norm": "group"}, "the norm policy is 'group'"),
        ({"precision": "float8"}, "float8"),
        ({"reduction": "max"}, "the reduction is 'max'; expected one of mean, sum"),
        ({"rows": 1}, "1 rows"),
    ],
)
def test_bad_input(supernet, change, message):
    given = {"archs": [SPACE.smallest], "batches": random_batches([(64, 64)]), "taps": ["C5"], **change}
    archs, batches = given.pop("archs"), given.pop("batches")
    with pytest.raises(UserError, match=message):
        Searcher(supernet, given.pop("taps"), **given).measure(archs, batches)
