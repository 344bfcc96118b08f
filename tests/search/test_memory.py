import numpy as np
import pytest
import torch
from samples import SPACE, random_batches

from data_plugin import UserError
from data_plugin.backbones import DynamicResNet
from data_plugin.features.norm_statistics import Recalibrated, statistics_bytes
from data_plugin.features.prefix_tree import tree_order
from data_plugin.images.batch import ImageBatches
from data_plugin.search.comparison import Comparison
from data_plugin.search.distances import relation
from data_plugin.search.memory import Bound, free_memory, parse_bytes
from data_plugin.search.searcher import search
from data_plugin.space.measured_cost import activations_of

ARCHS = SPACE.sample(5, seed=3)
TAPS = ("C2", "C4", "C5")
SIZE = (96, 128)


@pytest.fixture(scope="module")
def supernet() -> tuple[DynamicResNet, DynamicResNet]:
    torch.manual_seed(0)
    return DynamicResNet(SPACE), DynamicResNet(SPACE)


def foreseen(supernet, images: int) -> int:
    return Bound(0, *supernet, TAPS).foreseen(images, SIZE)


def held(supernet) -> int:
    """Bytes that are there before a search starts: the weights of both branches."""
    return sum(t.nbytes for branch in supernet for t in (*branch.parameters(), *branch.buffers()))


def peak(supernet, data: ImageBatches, archs=ARCHS, **options) -> float:
    """Most bytes that a search held at once by the allocator's own account."""
    images = next(iter(data)).images
    run = lambda images: search(*supernet, archs, data, TAPS, **options)  # noqa: E731
    return held(supernet) + activations_of(run, images)


@pytest.mark.parametrize("rows", [None, 300])
@pytest.mark.parametrize("kept", [0, 2**24])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_foreseen_is_what_a_search_of_the_widest_networks_takes(supernet, monkeypatch, count, kept, rows):
    monkeypatch.setattr(relation, "KEPT", kept)
    among = [arch for arch in SPACE if (arch.stem, arch.width) == (SPACE.largest.stem, SPACE.largest.width)]
    measured = peak(supernet, random_batches([SIZE] * count), among, rows=rows)
    assert measured == pytest.approx(Bound(0, *supernet, TAPS, rows).foreseen(count, SIZE), rel=0.02)


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_a_batch_that_is_too_large_is_compared_in_parts_within_the_bound(supernet, norm):
    data = random_batches([SIZE] * 5)
    bound = (foreseen(supernet, 2) + foreseen(supernet, 3)) // 2
    whole = search(*supernet, ARCHS, data, TAPS, norm=norm)
    split = search(*supernet, ARCHS, data, TAPS, norm=norm, max_memory=bound)
    assert (whole.parts, split.parts) == ([1], [3])
    assert split.data_hash == whole.data_hash
    assert peak(supernet, data, norm=norm, max_memory=bound) <= bound < peak(supernet, data, norm=norm)
    if norm == "running":
        np.testing.assert_allclose(split.distances, whole.distances, rtol=1e-5)
    else:  # The statistics are those of the parts, as if these were the batches.
        parts = ImageBatches(data.source, [[0, 1], [2, 3], [4]])
        np.testing.assert_allclose(split.distances, search(*supernet, ARCHS, parts, TAPS).distances, rtol=1e-5)
        assert not np.allclose(split.distances, whole.distances, rtol=1e-5)


def test_recalibrated_statistics_are_foreseen_and_of_whole_batches_where_these_fit(supernet):
    data = random_batches([SIZE] * 2)
    query, key = supernet
    held = statistics_bytes(query, tree_order(ARCHS), 3) + statistics_bytes(key, [SPACE.largest], 3)
    bound = Bound(0, *supernet, TAPS, held=held).foreseen(2, SIZE) - 1  # enough to walk both images, not to compare
    whole = search(*supernet, ARCHS, data, TAPS, norm="recalibrated")
    split = search(*supernet, ARCHS, data, TAPS, norm="recalibrated", max_memory=bound)
    assert split.parts == [2]
    np.testing.assert_allclose(split.distances, whole.distances, rtol=1e-5)
    assert peak(supernet, data, norm="recalibrated", max_memory=bound) <= bound


def test_statistics_take_what_was_foreseen(supernet):
    archs = tree_order(ARCHS)
    found = Recalibrated(supernet[0], archs, 3, [batch.images for batch in random_batches([SIZE], [SIZE])]).statistics
    taken = sum(value.nbytes for part in found for pair in part for value in pair)
    assert taken == statistics_bytes(supernet[0], archs, 3)


def test_an_image_that_does_not_fit_is_refused(supernet):
    with pytest.raises(UserError, match=r"one image of 96x128 needs .* raise --max-memory"):
        search(*supernet, ARCHS, random_batches([SIZE]), TAPS, max_memory=foreseen(supernet, 1) - 1)


def test_memory_that_runs_out_all_the_same_splits_the_batch(supernet, monkeypatch):
    data = random_batches([SIZE] * 5)
    whole = search(*supernet, ARCHS, data, TAPS, norm="running")
    distances = Comparison.distances

    def tight(self, batch, settled):
        if len(batch.names) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return distances(self, batch, settled)

    monkeypatch.setattr(Comparison, "distances", tight)
    split = search(*supernet, ARCHS, data, TAPS, norm="running")
    assert split.parts == [3]
    np.testing.assert_allclose(split.distances, whole.distances, rtol=1e-5)
    with pytest.raises(UserError, match="lower --batch-size"):  # other statistics than those of the batches before
        search(*supernet, ARCHS, data, TAPS, norm="batch")


def test_foreseeing_leaves_the_supernet_as_it_was(supernet):
    before = [{k: v.clone() for k, v in branch.state_dict().items()} for branch in supernet]
    foreseen(supernet, 1)
    for branch, state in zip(supernet, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in branch.state_dict().items())


def test_amounts_of_memory():
    assert parse_bytes("4GB") == 4 * 2**30
    assert parse_bytes("1.5 MB") == 1.5 * 2**20
    assert free_memory(torch.device("cpu")) > 2**20
    for text in ("4", "GB", "4 apples", "0GB"):
        with pytest.raises(UserError, match="expected a number and one of"):
            parse_bytes(text)
