"""Classifying labelled images with every sub-net, beside the same with each sub-net cut out."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE, random_supernet

pytest.importorskip("torchvision", reason="images are cut by torchvision")

from data_plugin.backbones import extract
from data_plugin.images.crops import centre_crop
from data_plugin.routing.accuracies import Accuracies, accuracies
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import load_routed_supernet

PATHS = list(itertools.product(range(2), repeat=2))


@pytest.fixture
def labelled(tmp_path):
    """Noise of three classes, which differ a little in their colour."""
    rng = np.random.default_rng(0)
    for label, count in enumerate((9, 7, 8)):
        folder = tmp_path / "labelled" / str(label)
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 200, (36, 40, 3), dtype=np.uint8)
            pixels[:, :, 0] += 12 * label
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "labelled"


def naive(network, images, labels, neighbours):
    """One image after the other, by the votes of the others."""
    calibrate([network], [images])
    with torch.no_grad():
        features = network.eval()(images)[-1].mean((2, 3)).double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    right, sure = [], []
    for index, (feature, label) in enumerate(zip(features, labels, strict=True)):
        others = sorted((-(other @ feature), labels[place]) for place, other in enumerate(features) if place != index)
        votes = [0.0] * 3
        for similarity, voter in others[:neighbours]:
            votes[voter] += math.exp(-similarity / 0.07)
        right.append(int(np.argmax(votes)) == label)
        votes.sort()
        last, next_one = others[neighbours - 1][0], others[neighbours][0]
        sure.append(votes[-1] - votes[-2] > 0.05 * votes[-1] and next_one - last > 1e-4)
    return np.array(right), np.array(sure)


def test_every_sub_net_classifies_as_it_does_alone(trained, labelled):
    routed = load_routed_supernet(trained.supernet)
    unified = random_supernet()
    found = accuracies(routed, SPACE.largest, labelled, 32, unified=unified, neighbours=5, device=torch.device("cpu"))
    assert found.paths == PATHS
    files = sorted(labelled.rglob("*.png"))
    transform = centre_crop(32, routed.info.input_format)
    images, labels = torch.stack([transform(Image.open(file)) for file in files]), [int(f.parent.name) for f in files]
    networks = [extract(routed.query, SPACE.largest, path) for path in PATHS]
    plain = [naive(network, images, labels, 5) for network in [*networks, extract(unified.query, SPACE.largest)]]
    for ours, (right, sure) in zip([*found.right, found.unified], plain, strict=True):
        assert sure.sum() > 10  # which rounding does not decide
        np.testing.assert_array_equal(ours[sure], right[sure])
    few = accuracies(routed, SPACE.largest, labelled, 32, count=10, neighbours=5, device=torch.device("cpu"))
    assert few.images == 10
    assert few.unified is None


def test_the_best_is_the_most_often_right_and_how_sure_that_is():
    rng = np.random.default_rng(0)
    right = rng.random((4, 60)) < np.array([0.5, 0.7, 0.75, 0.4])[:, None]
    found = Accuracies(right, PATHS)
    assert found.best == PATHS[int(right.sum(axis=1).argmax())]
    assert found.of((0, 1)) == right[1].mean()
    first = 0
    for _ in range(3_000):
        sums = right[:, rng.integers(60, size=60)].sum(axis=1)
        best = PATHS.index(found.best)
        first += sums[best] > np.delete(sums, best).max()
    assert found.confidence == pytest.approx(first / 3_000, abs=0.05)


def test_of_sub_nets_that_guess_the_best_looks_better_than_it_is_and_the_held_half_tells():
    right = np.random.default_rng(1).random((256, 400)) < 0.5
    paths = list(itertools.product(range(4), repeat=4))
    found = Accuracies(right, paths, unified=np.random.default_rng(2).random(400) < 0.5)
    assert found.of(found.best) > 0.55
    assert found.held.mean() == pytest.approx(0.5, abs=0.06)
    ahead, error = found.ahead(found.best)
    assert ahead == pytest.approx(found.held.mean() - found.unified.mean())
    assert error == pytest.approx(np.sqrt(0.5 / 400), rel=0.15)
    other, _ = found.ahead(paths[3])
    assert other == pytest.approx(right[3].mean() - found.unified.mean())
