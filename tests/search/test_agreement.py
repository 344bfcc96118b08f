import copy
import json

import pytest

from data_plugin.tools import compare_searches


def search(scores: dict[str, float], sha256: str = "a") -> dict:
    return {
        "config": "faster_rcnn_c4_voc",
        "data_root": "data",
        "supernet": {"sha256": sha256},
        "taps": ["C5"],
        "images": {"count": 3},
        "budgets": ["1-2", "2-3"],
        "candidates": [
            {"arch": arch, "score": score, "budgets": ["1-2" if arch < "e" else "2-3"]}
            for arch, score in scores.items()
        ],
    }


def write(folder, contents) -> str:
    folder.mkdir()
    (folder / "search.json").write_text(json.dumps(contents))
    return str(folder)


FIRST = {arch: float(i) for i, arch in enumerate("abcdefgh")}


def test_agreement_in_ranks_overlap_and_winners(tmp_path, capsys):
    second = {**FIRST, "a": 2.5, "z": 0.0}  # a falls behind b and c: of 8 ranks, three move by 2, 1, 1
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", search(second))]
    assert compare_searches.main([*folders, "--top", "2"]) == 0
    printed = capsys.readouterr().out
    whole, low, high = printed.split("\n\n")[1:]
    assert "all networks: 8 in common" in whole
    assert f"{1 - 6 * (4 + 1 + 1) / (8 * 63):.3f}" in whole
    assert "top 2 in common      1 (0.5 by chance)" in whole
    assert "closest in the first  a, number 3 in the second" in whole
    assert "closest in the second b, number 2 in the first" in whole
    assert "1-2: 4 in common" in low
    assert "2-3: 4 in common" in high
    assert "1.000" in high


def test_a_budget_with_too_few_networks_in_common_is_named(tmp_path, capsys):
    second = search({arch: score for arch, score in FIRST.items() if arch != "h" and arch != "g"})
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", second)]
    assert compare_searches.main(folders) == 0
    printed = capsys.readouterr().out
    assert "2-3: fewer than 3 networks in common" in printed
    assert "1-2: 4 in common" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["supernet"].update(sha256="b"), "two supernets"),
        (lambda s: s.update(candidates=s["candidates"][:2]), "2 networks in common"),
        (lambda s: s.pop("candidates"), "no search of this project"),
    ],
)
def test_searches_that_cannot_be_compared_are_refused(tmp_path, capsys, change, message):
    other = copy.deepcopy(search(FIRST))
    change(other)
    folders = [write(tmp_path / "1", search(FIRST)), write(tmp_path / "2", other)]
    assert compare_searches.main(folders) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_search_is_refused(tmp_path, capsys):
    assert compare_searches.main([str(tmp_path), str(tmp_path)]) == 2
    assert "search.json cannot be read" in capsys.readouterr().err
