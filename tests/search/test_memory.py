from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from samples import SPACE, random_batches, random_supernet

from data_plugin import UserError
from data_plugin.features.norm_statistics import NormStatistics, statistics_bytes
from data_plugin.features.prefix_tree import tree_order
from data_plugin.images.batch import ImageBatch, ImageBatches
from data_plugin.search.comparison import Comparison
from data_plugin.search.distances import relation
from data_plugin.search.memory import Bound, Walk, free_memory, parse_bytes
from data_plugin.search.result import SearchResult
from data_plugin.search.searcher import Searcher
from data_plugin.space.measured_cost import activations_of
from data_plugin.supernet.checkpoint import Supernet

ARCHS = SPACE.sample(5, seed=3)
TAPS = ("C2", "C4", "C5")
SIZE = (96, 128)


class Read(ImageBatches):
    """Batches that have been read, so that reading takes no memory."""

    def __init__(self, batches: ImageBatches) -> None:
        super().__init__(batches.source, batches.parts)
        self.read = list(batches)

    def only(self, indices: Sequence[int]) -> Iterator[ImageBatch]:
        return iter([self.read[index] for index in indices])


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return random_supernet()


def measure(supernet: Supernet, data: ImageBatches, archs=ARCHS, **options) -> SearchResult:
    return Searcher(supernet, TAPS, **options).measure(archs, data)


def bound_of(supernet: Supernet, size: int = 0, rows: int | None = None, held: int = 0) -> Bound:
    return Bound(size, True, Walk(supernet.query, supernet.key, TAPS, rows), held)


def foreseen(supernet: Supernet, images: int) -> int:
    return bound_of(supernet).foreseen(images, SIZE)


def peak(supernet: Supernet, data: ImageBatches, archs=ARCHS, **options) -> float:
    """Most bytes that a search held at once, by the allocator's own account: the weights, and what came on top."""
    weights = [t for branch in (supernet.query, supernet.key) for t in (*branch.parameters(), *branch.buffers())]
    read = Read(data)
    run = lambda images: measure(supernet, read, archs, **options)  # noqa: E731
    return sum(t.nbytes for t in weights) + activations_of(run, read.read[0].images)


@pytest.mark.parametrize("rows", [None, 300])
@pytest.mark.parametrize("kept", [0, 2**24])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_foreseen_is_what_a_search_of_the_widest_networks_takes(supernet, monkeypatch, count, kept, rows):
    monkeypatch.setattr(relation, "KEPT", kept)
    among = [arch for arch in SPACE if (arch.stem, arch.width) == (SPACE.largest.stem, SPACE.largest.width)]
    measured = peak(supernet, random_batches([SIZE] * count), among, rows=rows)
    assert measured == pytest.approx(bound_of(supernet, rows=rows).foreseen(count, SIZE), rel=0.02)


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_a_batch_that_is_too_large_is_compared_in_parts_within_the_bound(supernet, norm):
    data = random_batches([SIZE] * 5)
    bound = (foreseen(supernet, 2) + foreseen(supernet, 3)) // 2
    whole = measure(supernet, data, norm=norm)
    split = measure(supernet, data, norm=norm, max_memory=bound)
    assert (whole.parts, split.parts) == ([1], [3])
    assert split.data_hash == whole.data_hash
    assert peak(supernet, data, norm=norm, max_memory=bound) <= bound < peak(supernet, data, norm=norm)
    if norm == "running":
        np.testing.assert_allclose(split.scores, whole.scores, rtol=1e-4)
    else:  # The statistics are those of the parts, as if these were the batches.
        parts = ImageBatches(data.source, [[0, 1], [2, 3], [4]])
        np.testing.assert_allclose(split.scores, measure(supernet, parts).scores, rtol=1e-4)
        assert not np.allclose(split.scores, whole.scores, rtol=1e-4)


def test_what_is_free_changes_no_result(supernet, monkeypatch):
    """Where a batch does not fit and parts would have other statistics, the search says so instead."""
    data = random_batches([SIZE] * 5)
    whole = measure(supernet, data, norm="running")
    tight = (foreseen(supernet, 2) + foreseen(supernet, 3)) / 2 / 0.7
    monkeypatch.setattr("data_plugin.search.searcher.free_memory", lambda device: tight)
    split = measure(supernet, data, norm="running")
    assert split.parts == [3]
    np.testing.assert_allclose(split.scores, whole.scores, rtol=1e-4)
    with pytest.raises(UserError, match=r"a batch of 5 images of 96x128 needs .* lower --batch-size, or give --max-me"):
        measure(supernet, data, norm="batch")


def test_what_could_not_be_handed_over_is_refused_before_it_is_measured(supernet, monkeypatch):
    """A search that compares in parts, and whose winners' statistics would be those of parts."""
    data = random_batches([SIZE] * 5)
    largest = statistics_bytes(supernet.query, [SPACE.largest], 3)
    walked = Bound(0, True, Walk(supernet.query, supernet.key, ("C5",)), largest).foreseen(5, SIZE, compared=False)
    monkeypatch.setattr("data_plugin.search.searcher.free_memory", lambda device: (walked - 1) / 0.7)
    searcher = Searcher(supernet, TAPS, norm="running")
    with pytest.raises(UserError, match=r"a batch of 5 images of 96x128 needs .* lower --batch-size, or give --max-me"):
        searcher.require_room(data)
    Searcher(supernet, TAPS, norm="running", max_memory=walked).require_room(data)


def test_recalibrated_statistics_are_foreseen_and_of_whole_batches_where_these_fit(supernet):
    data = random_batches([SIZE] * 2)
    held = statistics_bytes(supernet.query, tree_order(ARCHS), 3) + statistics_bytes(supernet.key, [SPACE.largest], 3)
    bound = bound_of(supernet, held=held).foreseen(2, SIZE) - 1  # enough to walk both images, not to compare
    whole = measure(supernet, data, norm="recalibrated")
    split = measure(supernet, data, norm="recalibrated", max_memory=bound)
    assert split.parts == [2]
    np.testing.assert_allclose(split.scores, whole.scores, rtol=1e-4)
    assert peak(supernet, data, norm="recalibrated", max_memory=bound) <= bound


def test_statistics_take_what_was_foreseen(supernet):
    archs = tree_order(ARCHS)
    statistics = NormStatistics(supernet.query)
    with torch.no_grad():
        statistics.add(archs, [batch.images for batch in random_batches([SIZE], [SIZE])])
    taken = sum(value.nbytes for block in statistics.by_place.values() for pair in block for value in pair)
    assert taken == statistics_bytes(supernet.query, archs, 3)


def test_an_image_that_does_not_fit_is_refused(supernet):
    with pytest.raises(UserError, match=r"one image of 96x128 needs .* raise --max-memory"):
        measure(supernet, random_batches([SIZE]), max_memory=foreseen(supernet, 1) - 1)


def test_memory_that_runs_out_all_the_same_splits_the_batch(supernet, monkeypatch):
    data = random_batches([SIZE] * 5)
    whole = measure(supernet, data, norm="running")
    compare = Comparison.compare

    def tight(self, batch, *given):
        if len(batch.names) > 2 and not batch.images.is_meta:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compare(self, batch, *given)

    monkeypatch.setattr(Comparison, "compare", tight)
    split = measure(supernet, data, norm="running")
    assert split.parts == [3]
    np.testing.assert_allclose(split.scores, whole.scores, rtol=1e-4)
    with pytest.raises(UserError, match="lower --batch-size"):  # other statistics than those of the batches before
        measure(supernet, data, norm="batch")


def test_foreseeing_leaves_the_supernet_as_it_was(supernet):
    branches = (supernet.query, supernet.key)
    before = [{k: v.clone() for k, v in branch.state_dict().items()} for branch in branches]
    foreseen(supernet, 1)
    for branch, state in zip(branches, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in branch.state_dict().items())


def test_amounts_of_memory():
    assert parse_bytes("4GB") == 4 * 2**30
    assert parse_bytes("1.5 MB") == 1.5 * 2**20
    assert free_memory(torch.device("cpu")) > 2**20
    for text in ("4", "GB", "4 apples", "0GB"):
        with pytest.raises(UserError, match="expected a number and one of"):
            parse_bytes(text)
