"""Dealing images to clusters of bounded sizes, beside the largest sum of similarities that such sizes allow."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="clusters need scikit-learn")

from scipy.optimize import linear_sum_assignment

from data_plugin.features.balanced_split import balanced_centroids, deal


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def crowded(seed, images=300, clusters=4):
    """Similarities to clusters, to one of which most images are near."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(images, 8))
    features[: images * 2 // 3] += rng.normal(size=8)
    features = unit(features)
    return features @ features[rng.choice(images, clusters, replace=False)].T


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("clusters", [2, 4, 5])
def test_the_sum_of_similarities_is_nearly_the_largest_of_these_sizes(seed, clusters):
    similarities = crowded(seed, clusters=clusters)
    least = 200 // clusters
    dealt = deal(similarities, least, 2 * least)
    sizes = np.bincount(dealt, minlength=clusters)
    assert sizes.min() >= least
    assert sizes.max() <= 2 * least
    # The plain way: a place for each image, and the best of all assignments to them.
    places = np.repeat(np.arange(clusters), sizes)
    images, taken = linear_sum_assignment(-similarities[:, places])
    best = similarities[images, places[taken]].sum()
    random = similarities[images, np.random.default_rng(seed).permutation(places)].sum()
    found = similarities[images, dealt].sum()
    assert best - found <= 0.01 * (best - random)


def test_images_go_to_the_nearest_cluster_where_that_is_within_the_bounds():
    similarities = crowded(0)
    nearest = similarities.argmax(axis=1)
    counts = np.bincount(nearest, minlength=4)
    np.testing.assert_array_equal(deal(similarities, counts.min(), counts.max()), nearest)


@pytest.mark.parametrize(("images", "least", "most"), [(12, 2, 4), (4, 1, 1), (7, 1, 2), (5, 1, 2)])
def test_equal_images_are_divided_too(images, least, most):
    sizes = np.bincount(deal(np.tile([0.9, 0.5, 0.4, 0.3], (images, 1)), least, most), minlength=4)
    assert sizes.sum() == images
    assert sizes.min() >= least
    assert sizes.max() <= most


def test_a_cluster_that_no_image_is_near_gets_its_share():
    similarities = crowded(0, clusters=3)
    similarities[:, 2] = -50
    assert 60 <= np.bincount(deal(similarities, 60, 120))[2] <= 120


def test_centroids_are_those_of_balanced_clusters():
    rng = np.random.default_rng(0)
    # Three clouds, of which the first has most images: it is divided.
    clouds = [(90, [1, 0, 0, 0.0]), (15, [0, 1, 0, 0.0]), (15, [0, 0, 1, 0.0])]
    features = unit(np.concatenate([np.array(at) + rng.normal(size=(count, 4)) / 20 for count, at in clouds]))
    centroids = balanced_centroids(features, 4, 20, 40, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    dealt = deal(features @ centroids.T, 20, 40)
    means = np.stack([features[dealt == cluster].mean(axis=0) for cluster in range(4)])
    np.testing.assert_allclose(unit(means), centroids, atol=1e-6)
    assert len(set(dealt[90:105])) == len(set(dealt[105:])) == 1
