"""Promised: two results are compared by their largest difference, and nothing that differs in kind counts as equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.run.torch_batch import largest_gap

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expected", "found", "gap"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([NAN, INF, 8.0], [NAN, INF, 7.0], 0.125),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([1.0], [1], INF),
        ([1, 2], [1, 2], 0.0),
        ([1, 2], [1, 3], INF),
        ([True], [False], INF),
        ([], [], 0.0),
    ],
)
def test_the_gap_of_two_arrays(expected: list[float], found: list[float], gap: float) -> None:
    assert largest_gap(np.array(expected), np.array(found)) == gap


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), st.floats(0, 1), st.data())
def test_the_gap_is_the_change_of_one_value_relative_to_the_largest(
    values: list[float], change: float, data: st.DataObject
) -> None:
    expected = np.array([*values, 1e6])
    found = expected.copy()
    found[data.draw(st.integers(0, len(values) - 1))] += change * 1e6
    assert largest_gap(expected, found) == pytest.approx(change, abs=1e-9)
