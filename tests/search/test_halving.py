import numpy as np
import pytest

from data_plugin import SearchSpace, UserError
from data_plugin.search.searcher import SearchResult
from data_plugin.search.strategies.halving import halve

ARCHS = SearchSpace.micro().sample(60, seed=0)
IMAGES = 64
BATCH = 2


def distances(noise: float, step: float = 0.1, seed: int = 0) -> np.ndarray:
    """Network i is ``step`` i away on average; images shift all networks alike and each a little."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, 5, IMAGES)
    return step * np.arange(len(ARCHS))[:, None] + shared + generator.normal(0, noise, (len(ARCHS), IMAGES))


def run(values: np.ndarray, candidates, **options):
    work: list[tuple[int, int]] = []

    def measure(number, archs, indices):
        columns = [BATCH * index + i for index in indices for i in range(BATCH)]
        work.append((len(archs), len(columns)))
        rows = [ARCHS.index(arch) for arch in archs]
        names = [str(column) for column in columns]
        found = values[None, rows][:, :, columns]
        return SearchResult(archs, ["C5"], found, names, "x", np.zeros((1, len(archs))), [1] * len(indices))

    return halve(measure, candidates, IMAGES // BATCH, **options), work


def test_finds_the_winner_of_all_images_with_less_work():
    values = distances(noise=0.2)
    found, work = run(values, {"all": ARCHS})
    assert [images for _, images in work] == [8, 8, 16, 32]
    assert sum(networks * images for networks, images in work) < 0.5 * len(ARCHS) * IMAGES
    result = found.result
    assert result.images == [str(i) for i in range(IMAGES)]
    kept = [ARCHS.index(arch) for arch in result.archs]
    np.testing.assert_array_equal(result.per_image, values[kept])
    assert ARCHS[values.mean(axis=1).argmin()] == result.archs[result.scores.argmin()]
    assert set(result.archs) | set(found.dropped) == set(ARCHS)
    assert not set(result.archs) & set(found.dropped)
    for arch, (images, mean) in found.dropped.items():
        assert mean == pytest.approx(values[ARCHS.index(arch), :images].mean())


def test_networks_that_do_not_differ_are_dropped_no_oftener_than_the_confidence_says():
    """Three rounds at 0.95 may drop something in at most 15 % of the searches; 13 of 40 would be one in a thousand."""
    wrong = [
        bool(run(distances(1.0, step=0, seed=seed), {"all": ARCHS}, confidence=0.95)[0].dropped) for seed in range(40)
    ]
    assert sum(wrong) < 13


def test_every_budget_keeps_its_own_winner():
    values = distances(noise=0.05)
    found, _ = run(values, {"close": ARCHS[:10], "far": ARCHS[40:]})
    assert {ARCHS[0], ARCHS[40]} <= set(found.result.archs)
    assert ARCHS[59] in found.dropped


def test_a_confidence_out_of_range_is_refused():
    with pytest.raises(UserError, match="confidence is 1"):
        run(distances(0.1), {"all": ARCHS}, confidence=1)
