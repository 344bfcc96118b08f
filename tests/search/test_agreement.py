import json

import numpy as np
import pytest
from samples import SPACE

from data_plugin.search.report.search_report import Candidates, Images, SearchReport
from data_plugin.tools import compare_searches

ARCHS = list(SPACE)[:9]


def search(scores: dict[int, float], sha256: str = "a") -> SearchReport:
    """A search that found these scores, by the number of a network; the first four are of the first budget."""
    archs = sorted(scores, key=lambda number: scores[number])
    none = np.zeros(len(archs))
    return SearchReport(
        config="faster_rcnn_c4_voc",
        framework="mmdet",
        data_root="data",
        taps=["C5"],
        budgets=["1-2", "2-3"],
        pareto=False,
        input_size=None,
        chosen="all within the budgets",
        reduction="mean",
        norm="batch",
        precision="float32",
        rows=None,
        entropy=1.0,
        images=Images(["1.jpg", "2.jpg", "3.jpg"], "x", 3, 0, 1),
        winners=[],
        candidates=Candidates(
            archs=[ARCHS[number] for number in archs],
            budgets=[["1-2" if number < 4 else "2-3"] for number in archs],
            flops=none,
            params=none,
            costs={},
            scores=np.array([scores[number] for number in archs]),
            standard_errors=none,
            sampling_errors=none,
            taps={"C5": none},
        ),
        run={"supernet": {"sha256": sha256}},
    )


def write(folder, report: SearchReport) -> str:
    folder.mkdir()
    (folder / "search.json").write_text(json.dumps(report.to_json()))
    return str(folder)


FIRST = {number: float(number) for number in range(8)}


def test_agreement_in_ranks_overlap_and_winners(tmp_path, capsys):
    second = {**FIRST, 0: 2.5, 8: 0.0}  # 0 falls behind 1 and 2: of 8 ranks, three move by 2, 1, 1
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", search(second))]
    assert compare_searches.main([*folders, "--top", "2"]) == 0
    printed = capsys.readouterr().out
    whole, low, high = printed.split("\n\n")[1:]
    assert "faster_rcnn_c4_voc on 3 images of data at C5" in printed
    assert "all networks: 8 in common" in whole
    assert f"{1 - 6 * (4 + 1 + 1) / (8 * 63):.3f}" in whole
    assert "top 2 in common      1 (0.5 by chance)" in whole
    assert f"closest in the first  {ARCHS[0]}, number 3 in the second" in whole
    assert f"closest in the second {ARCHS[1]}, number 2 in the first" in whole
    assert "1-2: 4 in common" in low
    assert "2-3: 4 in common" in high
    assert "1.000" in high


def test_a_budget_with_too_few_networks_in_common_is_named(tmp_path, capsys):
    second = search({number: score for number, score in FIRST.items() if number < 6})
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", second)]
    assert compare_searches.main(folders) == 0
    printed = capsys.readouterr().out
    assert "2-3: fewer than 3 networks in common" in printed
    assert "1-2: 4 in common" in printed


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (search(FIRST, sha256="b"), "two supernets"),
        (search({number: score for number, score in FIRST.items() if number < 2}), "2 networks in common"),
    ],
)
def test_searches_that_cannot_be_compared_are_refused(tmp_path, capsys, other, message):
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", other)]
    assert compare_searches.main(folders) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_search_is_refused(tmp_path, capsys):
    assert compare_searches.main([str(tmp_path), str(tmp_path)]) == 2
    assert "search.json cannot be read" in capsys.readouterr().err
