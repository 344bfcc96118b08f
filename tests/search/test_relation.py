import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_plugin import UserError
from data_plugin.search.distances.relation import TeacherRelation, draw_rows


def naive_distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """Eq. 4 and 5 written out entry by entry, in double precision."""

    def relations(features: torch.Tensor) -> list[list[float]]:
        columns = [column / (column.norm() or 1) for column in features.double().flatten(1).T]
        rows = []
        for m_i in columns:
            exponentials = [math.exp(float(m_i @ m_j) / temperature) for m_j in columns]
            rows.append([value / sum(exponentials) for value in exponentials])
        return rows

    r, r_teacher = relations(student), relations(teacher)
    positions = range(len(r))
    return sum(-r_teacher[i][j] * math.log(r[i][j]) for i in positions for j in positions)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tile", [1, 7, 256])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_distance_is_that_of_the_equations(tile, keep, temperature):
    torch.manual_seed(0)
    teacher, student = torch.randn(3, 8, 4, 5), torch.randn(3, 6, 4, 5)
    student[0, :, 1, 2] = 0  # a column without a direction, as dead units leave behind
    found = TeacherRelation(teacher, temperature, tile=tile, keep=keep).distance(student)
    expected = [naive_distance(s, t, temperature) for s, t in zip(student, teacher, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_student_with_the_teachers_relations_is_closest():
    torch.manual_seed(0)
    teacher = torch.randn(1, 16, 6, 6)
    rotation = torch.linalg.qr(torch.randn(16, 16)).Q
    rotated = torch.einsum("oc,nchw->nohw", rotation, teacher)
    own = TeacherRelation(teacher)
    assert own.distance(rotated).item() == pytest.approx(own.distance(teacher).item(), rel=1e-5)
    assert own.distance(teacher + 0.5 * torch.randn_like(teacher)) > own.distance(teacher)


class Largest(TorchDispatchMode):
    """Keeps how many bytes the largest tensor takes that is made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [each.untyped_storage().nbytes() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        self.bytes = max(self.bytes, *sizes, 0)
        return made


def test_memory_stays_far_below_the_whole_matrix():
    """The relation of 9,000 positions takes 324 MB as a matrix; streaming allocates well under that at any time."""
    features = torch.randn(1, 4, 90, 100)
    with Largest() as largest:
        TeacherRelation(features).distance(features)
    assert 0 < largest.bytes < 9000 * 9000 * 4 / 4


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tile", [6, 256])
def test_drawn_rows_estimate_the_distance_without_bias_and_tell_their_error(tile, keep):
    teacher, student = torch.randn(1, 8, 4, 5), torch.randn(1, 6, 4, 5)
    exact = TeacherRelation(teacher).estimate(student)[0].item()
    draws = [draw_rows(["a"], 20, 7, seed, "C5") for seed in range(400)]
    found = [TeacherRelation(teacher, rows=rows, tile=tile, keep=keep).estimate(student) for rows in draws]
    values, variances = (torch.cat(column) for column in zip(*found, strict=True))
    # Both are means of 400 draws: they miss by more than 4 of their standard errors once in 16,000.
    assert abs(values.mean() - exact) < 4 * values.std() / 20
    assert abs(variances.mean() - values.var()) < 4 * (values - exact).square().std() / 20
    assert values.std() > 0


def test_rows_that_are_drawn_are_distinct_and_depend_on_image_tap_and_seed_alone():
    rows = draw_rows(["a", "b"], 50, 20, 0, "C5")
    assert rows.shape == (2, 20)
    assert all(len(set(row)) == 20 and max(row) < 50 for row in rows.tolist())
    assert torch.equal(rows[1:], draw_rows(["b"], 50, 20, 0, "C5"))
    for other in (draw_rows(["a"], 50, 20, 1, "C5"), draw_rows(["a"], 50, 20, 0, "C4"), rows[1:]):
        assert not torch.equal(rows[:1], other)
    assert draw_rows(["a"], 20, 20, 0, "C5") is None


def test_a_temperature_that_float32_cannot_hold_is_refused():
    with pytest.raises(UserError, match=r"temperature is 0\.001; expected at least 0\.02"):
        TeacherRelation(torch.rand(1, 2, 3, 3), temperature=0.001)


def test_the_faster_way_is_chosen_once_a_shape(monkeypatch):
    """Trying both ways costs a student each, so maps of one shape share the choice, however many there are."""
    tried = []

    def never(way, other, student):
        tried.append(student.shape)
        return False

    monkeypatch.setattr("data_plugin.search.distances.relation._is_faster", never)
    faster: dict = {}
    for size in ((4, 5), (4, 5), (5, 4), (3, 3), (4, 5)):
        teacher = TeacherRelation(torch.randn(2, 8, *size), faster=faster)
        teacher.kernel = None  # as on a GPU, where there is a choice
        teacher.estimate(torch.randn(2, 6, *size))
    assert [tuple(shape[:2]) for shape in tried] == [(2, 20), (2, 9)]
