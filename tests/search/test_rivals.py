import json

import numpy as np
import pytest
from samples import SPACE, RandomImages

from data_plugin import Arch, SearchSpace
from data_plugin.images.batch import ImageBatches
from data_plugin.search.found import Search
from data_plugin.search.report.words import beside
from data_plugin.search.rivals import MOST_FLOPS, MOST_PARAMS, RESNET50, Beside, rivals_of, unlike_resnet50
from data_plugin.search.searcher import Searcher
from data_plugin.space import cost
from data_plugin.space.budget import Budget
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools import search_det

pytestmark = pytest.mark.filterwarnings("ignore:256 images were asked for")


def test_a_resnet50_of_another_size_has_its_shape():
    half = Arch(stem=32, width=(32, 64, 128, 256), depth=(3, 4, 6, 3))
    deeper = Arch(stem=64, width=(64, 128, 256, 512), depth=(6, 8, 12, 6))
    wider_end = Arch(stem=64, width=(64, 128, 256, 640), depth=(3, 4, 6, 3))
    unlike = unlike_resnet50(np.array([arch.row for arch in (Arch.resnet50(), half, deeper, wider_end)]))
    assert unlike[:3] == pytest.approx(0)
    assert unlike[3] > 0


def test_rivals_are_the_extremes_of_the_budget_and_resnet50s_shape():
    space, budget = SearchSpace.data(), Budget.group("4-5")
    costs = {"flops": cost.flops}
    found = rivals_of(space, lambda table: budget.fits(table, costs))
    inside = [Arch.from_row(row.tolist()) for row in space.table[budget.fits(space.table, costs)]]
    assert cost.flops(found[MOST_FLOPS]) == max(map(cost.flops, inside))
    assert cost.params(found[MOST_PARAMS]) == max(map(cost.params, inside))
    assert found[RESNET50].width == (64, 128, 256, 512)
    assert found[RESNET50].depth in ((3, 4, 5, 3), (3, 4, 7, 3))
    assert rivals_of(space, lambda table: np.zeros(len(table), dtype=bool)) == {}


@pytest.mark.parametrize("more", [[], ["--halve", "0.6"], ["--evolve", "--population", "4", "--generations", "2"]])
def test_a_search_measures_them_on_its_own_images(config, supernet_file, arguments, groups, tmp_path, more):
    config.source = RandomImages([(64, 64)] * 6)
    assert search_det.main(arguments(tmp_path / "out", *more)) == 0
    found = Search.read(tmp_path / "out")
    names = found.report.images.names
    batches = ImageBatches(config.source, [[config.source.names.index(name)] for name in names])
    archs = sorted({rival.arch for rival in found.report.rivals})
    result = Searcher(load_supernet(supernet_file), ["C5"]).measure(archs, batches)
    scores = dict(zip(result.archs, result.scores, strict=True))
    assert [(rival.budget, rival.name) for rival in found.report.rivals] == [
        (group, name) for group in groups for name in (RESNET50, MOST_FLOPS, MOST_PARAMS)
    ]
    for rival in found.report.rivals:
        low, high = (float(bound) * 1e9 for bound in rival.budget.split("-"))
        assert low <= cost.flops(rival.arch) < high
        assert rival.score == pytest.approx(scores[rival.arch], rel=1e-4)
    _, *rows = beside(found.report)
    assert len(rows) == len(groups) * (4 if more else 5)
    for group in groups if not more else []:
        within = [row["score"] for row in contents(tmp_path / "out")["candidates"] if group in row["budgets"]]
        (row,) = [row for row in rows if row[0] == group and row[1] == f"a random one (of {len(within)})"]
        assert float(row[5]) == pytest.approx(np.mean(within), rel=1e-3)
    shown = [float(row[6].split(" %")[0]) for row in rows]
    assert all(0 <= share <= 100 for share in shown)
    assert 0 in {round(100 * found.report.share(score)) for score in [found.report.farthest]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(cell in page for row in rows for cell in row[2:])


def contents(folder) -> dict:
    return json.loads((folder / "search.json").read_text())


def test_no_image_is_read_again_for_them(config, arguments, tmp_path):
    read = []

    class Counted(RandomImages):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    config.source = Counted([(64, 64)] * 4)
    assert search_det.main(arguments(tmp_path / "out")) == 0
    # The plan, the memory that the winners' batch norms need, the search, and these batch norms.
    assert len(read) == 1 + 1 + 4 + 4


def test_a_strategy_sees_nothing_of_them(supernet_file):
    archs = SPACE.sample(6, seed=0)
    batches = ImageBatches(RandomImages([(64, 64)] * 2), [[0], [1]])
    searcher = Searcher(load_supernet(supernet_file), ["C5"])
    measures = Beside(searcher.on(batches), archs[3:])
    first = measures.measure(archs[:4], [0])
    both = measures.measure(archs[:4])
    alone = searcher.measure(archs[:4], batches)
    assert both.archs == alone.archs == first.archs
    np.testing.assert_allclose(both.scores, alone.scores, rtol=1e-5)
