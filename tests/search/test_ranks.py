from pathlib import Path

import numpy as np
import pytest
from processes import in_processes
from samples import SPACE, random_batches, random_supernet

from data_plugin.images.batch import ImageBatches
from data_plugin.search.result import SearchResult
from data_plugin.search.resume import PartialSearch
from data_plugin.search.searcher import Searcher
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, rank, rank_count

IMAGES = ([(64, 64)], [(64, 96)] * 2, [(96, 64)], [(64, 64)], [(64, 64)])


def run_search(unfinished: PartialSearch | None = None) -> tuple[SearchResult, list[int]]:
    asked: list[int] = []

    class Watched(ImageBatches):
        def only(self, indices):
            asked.extend(indices)
            return super().only(indices)

    drawn = random_batches(*IMAGES)
    measurement = Searcher(random_supernet(), ["C3", "C5"]).on(Watched(drawn.source, drawn.parts), unfinished)
    return measurement.measure(SPACE.sample(9, seed=2)), asked


def search(folder: Path) -> None:
    with joined_ranks():
        number = rank()
        assert from_first(number) == 0
        assert from_all(number) == list(range(rank_count()))
        partial = PartialSearch(folder / "partial", {"a": 1}, {})
        found, asked = run_search(partial)
    values = np.stack([tap.values[tap.rows] for tap in found.taps.values()])
    np.savez(folder / f"{number}.npz", values=values, scores=found.scores, images=np.array(found.images), asked=asked)
    (folder / f"{number}.txt").write_text(found.data_hash)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_finds(tmp_path, count):
    in_processes(tmp_path, count, search, tmp_path)
    alone, _ = run_search()
    shares = []
    for number in range(count):
        found = np.load(tmp_path / f"{number}.npz")
        for values, tap in zip(found["values"], alone.taps.values(), strict=True):
            np.testing.assert_allclose(values, tap.values[tap.rows], rtol=1e-6)
        assert found["images"].tolist() == list(alone.images)
        assert (tmp_path / f"{number}.txt").read_text() == alone.data_hash
        shares.append(found["asked"].tolist())
    assert sorted(index for share in shares for index in share) == list(range(len(IMAGES)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # What the processes kept is whole: one process alone resumes from it without measuring anything.
    resumed, asked = run_search(PartialSearch(tmp_path / "partial", {"a": 1}, {}))
    assert asked == []
    np.testing.assert_array_equal(resumed.scores, found["scores"])
