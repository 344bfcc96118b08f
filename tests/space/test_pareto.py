import numpy as np
import pytest

from data_plugin.space.pareto import pareto_front


def naive_front(values: np.ndarray) -> set[tuple[float, ...]]:
    """Rows that no other row beats, by comparing every pair."""
    rows = {tuple(row) for row in values.tolist()}
    return {a for a in rows if not any(b != a and all(y <= x for x, y in zip(a, b, strict=True)) for b in rows)}


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_front_is_what_no_pair_beats(columns, levels):
    generator = np.random.default_rng(0)
    for count in (1, 2, 60):
        values = generator.integers(0, levels, (count, columns)).astype(float)
        front = pareto_front(values)
        members = [tuple(row) for row in values[front].tolist()]
        assert set(members) == naive_front(values)
        assert len(members) == len(set(members))
        assert members == sorted(members)
