import numpy as np
import pytest

from data_plugin import SearchSpace, UserError
from data_plugin.search.result import SearchResult, TapResult
from data_plugin.search.strategies.halving import Halving
from data_plugin.search.strategies.sample import Sample

SPACE = SearchSpace.micro()
ARCHS = SPACE.sample(60, seed=0)
IMAGES = 64
BATCH = 2


def divergences(noise: float, step: float = 0.1, seed: int = 0) -> np.ndarray:
    """Network i is ``step`` i away on average; images shift all networks alike and each a little."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, 5, IMAGES)
    return step * np.arange(len(ARCHS))[:, None] + shared + generator.normal(0, noise, (len(ARCHS), IMAGES))


class Measures:
    """Gives rows of a table, and notes how many networks saw how many images for the first time."""

    count = IMAGES // BATCH

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.work: list[tuple[int, int]] = []
        self.skipped = 0.0
        self.seen = 0

    def measure(self, archs, batches=None) -> SearchResult:
        columns = [BATCH * index + i for index in batches for i in range(BATCH)]
        self.work.append((len(archs), len(columns) - self.seen))
        self.seen = len(columns)
        found = self.values[[ARCHS.index(arch) for arch in archs]][:, columns]
        tap = TapResult(np.arange(len(archs)), found, np.zeros(len(archs)), np.zeros(len(columns)))
        return SearchResult(archs, {"C5": tap}, [str(c) for c in columns], ["x"] * len(batches), [1] * len(batches))

    def skip(self, networks: float) -> None:
        self.skipped += networks


def run(values: np.ndarray, candidates, **options):
    measures = Measures(values)
    return Halving(Sample(), **options).search(measures, candidates, SPACE, {}, 0), measures


def test_finds_the_winner_of_all_images_with_less_work():
    values = divergences(noise=0.2)
    found, measures = run(values, {"all": ARCHS})
    assert [images for _, images in measures.work] == [8, 8, 16, 32]
    networks_times_batches = sum(networks * images // BATCH for networks, images in measures.work)
    assert networks_times_batches < 0.5 * len(ARCHS) * measures.count
    assert networks_times_batches + measures.skipped == len(ARCHS) * measures.count
    result = found.result
    assert result.images == [str(i) for i in range(IMAGES)]
    kept = [ARCHS.index(arch) for arch in result.archs]
    np.testing.assert_array_equal(result.per_image(range(len(kept))), values[kept])
    assert ARCHS[values.mean(axis=1).argmin()] == result.archs[result.scores.argmin()]
    assert set(result.archs) == set(found.candidates["all"])
    assert set(result.archs) | set(found.dropped) == set(ARCHS)
    assert not set(result.archs) & set(found.dropped)
    for arch, (images, mean) in found.dropped.items():
        assert mean == pytest.approx(values[ARCHS.index(arch), :images].mean())


def test_networks_that_do_not_differ_are_dropped_no_oftener_than_the_confidence_says():
    """Three rounds at 0.95 may drop something in at most 15 % of the searches; 13 of 40 would be one in a thousand."""
    wrong = [
        bool(run(divergences(1.0, step=0, seed=seed), {"all": ARCHS}, confidence=0.95)[0].dropped) for seed in range(40)
    ]
    assert sum(wrong) < 13


def test_every_budget_keeps_its_own_winner():
    found, _ = run(divergences(noise=0.05), {"close": ARCHS[:10], "far": ARCHS[40:]})
    assert ARCHS[0] in found.candidates["close"]
    assert ARCHS[40] in found.candidates["far"]
    assert {ARCHS[0], ARCHS[40]} <= set(found.result.archs)
    assert ARCHS[59] in found.dropped


def test_a_confidence_out_of_range_is_refused():
    with pytest.raises(UserError, match="confidence is 1"):
        Halving(Sample(), confidence=1)
