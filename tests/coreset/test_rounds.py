"""SimCore's choice against the algorithm written down image by image."""

import math

import numpy as np
import pytest
from samples import written_store

pytest.importorskip("sklearn", reason="clusters need scikit-learn")

from data_plugin.coreset.centroids import centroids_of
from data_plugin.coreset.remaining import Remaining
from data_plugin.coreset.rounds import choose


def plain(features, centroids, budget, stop):
    """Every centroid in turn takes its most similar image that no earlier round took.

    Two of a round may take the same, which counts once; the round that falls below 0.95 of round 20 is discarded.
    """
    similar = [[math.fsum(map(float, centroid * image)) for image in features] for centroid in centroids]
    order = [sorted(range(len(features)), key=lambda image, of=of: (-of[image], image)) for of in similar]
    chosen, means, threshold = [], [], None
    while len(chosen) < budget:
        earlier, taken = set(chosen), []
        for images in order:
            taken += [image for image in images if image not in earlier][:1]
        if not taken:
            return chosen, means, "taken"
        mean = math.fsum(of[image] for of, image in zip(similar, taken, strict=True)) / len(centroids)
        if stop and len(means) == 19:
            threshold = 0.95 * mean
        if threshold is not None and mean < threshold:
            return chosen, means, "similarity"
        means.append(mean)
        for image in taken:
            if image not in chosen and len(chosen) < budget:
                chosen.append(image)
    return chosen, means, "budget"


def unit(values):
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths, lengths, 1)).astype(np.float16)


def features_of(kind, count, rng):
    if kind == "all apart":
        return unit(rng.normal(loc=(1, 0, 0, 0, 0, 0), size=(count, 6)))
    # Few directions, so that many images are equally near and several centroids want the same ones.
    return unit(rng.integers(0, 3, size=(count, 3)).astype(float))


@pytest.mark.parametrize("kind", ["all apart", "many alike"])
@pytest.mark.parametrize(("budget", "stop"), [(1, False), (23, False), (70, False), (10_000, False), (10_000, True)])
@pytest.mark.parametrize("length", [3, 1_000])
def test_the_choice_is_that_of_the_plain_algorithm(kind, budget, stop, length, tmp_path):
    ended = set()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        opened = features_of(kind, 90, rng)
        centroids = centroids_of(features_of(kind, 12, rng), clusters=4, seed=seed)
        store = written_store(tmp_path / str(seed), opened, shard_size=11 + 30 * seed)
        found = choose(Remaining(store, centroids, length), budget, stop)
        chosen, means, stopped = plain(opened.astype(float), centroids, budget, stop)
        assert found.images == chosen
        assert [each.similarity for each in found.rounds] == means
        assert found.stopped == stopped
        ended.add(stopped)
    assert ended == {"similarity" if stop else "taken" if budget > 90 else "budget"}


@pytest.mark.parametrize("length", [3, 1_000])
def test_cosines_that_single_precision_cannot_tell_apart_are_told_apart(length, tmp_path):
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(1, 256)))
    ulps = rng.integers(-1, 2, size=(300, 256)) * (rng.random((300, 256)) < 0.02)
    opened = np.nextafter(base, (base + ulps).astype(np.float16))  # a step of half precision, here and there
    centroids = np.concatenate([base, opened[:1]]).astype(float)
    single = centroids.astype(np.float32) @ opened.astype(np.float32).T
    exact = centroids @ opened.astype(float).T
    assert any((np.argsort(-one) != np.argsort(-other)).any() for one, other in zip(single, exact, strict=True))
    store = written_store(tmp_path, opened, shard_size=70)
    found = choose(Remaining(store, centroids, length), budget=200, stop=False)
    assert found.images == plain(opened.astype(float), centroids, 200, stop=False)[0]


def test_the_first_round_below_the_threshold_is_discarded_and_none_before_the_twentieth_counts(tmp_path):
    # One centroid; similarities fall by half a percent, then by six.
    falling = [1 - 0.005 * step for step in range(24)]
    cosines = np.array([*falling, 0.85 * falling[19], 0.84 * falling[19]])
    features = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    store = written_store(tmp_path / "open", features)
    found = choose(Remaining(store, np.array([[1.0, 0.0]]), 1_000), budget=26, stop=True)
    assert found.images == list(range(24))
    assert found.stopped == "similarity"
    assert found.threshold == pytest.approx(0.95 * falling[19], abs=1e-3)
    assert found.discarded.images == (24,)
    fast = np.array([1, *np.linspace(0.5, 0.4, 17)])  # far below 0.95 of the first, and no round 20
    store = written_store(tmp_path / "fast", np.stack([fast, np.sqrt(1 - fast**2)], axis=1))
    found = choose(Remaining(store, np.array([[1.0, 0.0]]), 1_000), budget=100, stop=True)
    assert (len(found.images), found.stopped, found.threshold) == (18, "taken", None)


def test_what_is_left_out_is_never_chosen(tmp_path):
    features = unit(np.random.default_rng(0).normal(size=(40, 4)))
    centroids = centroids_of(features[:3])
    without = [0, 7, 8, 9, 39]
    store = written_store(tmp_path / "open", features)
    found = choose(Remaining(store, centroids, 4, without), budget=40, stop=False)
    left = [image for image in range(40) if image not in without]
    chosen, _, _ = plain(features[left].astype(float), centroids, 40, stop=False)
    assert found.images == [left[image] for image in chosen]


def test_centroids_are_of_length_1_and_the_images_themselves_where_they_are_few():
    from sklearn.cluster import KMeans

    features = unit(np.random.default_rng(0).normal(size=(30, 5))).astype(np.float32)
    np.testing.assert_allclose(centroids_of(features, clusters=30), features, atol=1e-3)
    found = centroids_of(features, clusters=4, seed=3)
    plain = KMeans(4, random_state=3).fit(features).cluster_centers_
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
