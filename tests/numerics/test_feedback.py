"""Promised: C++ rounds with feedback to the codes and errors of NumPy, bit for bit."""

import numpy as np
import pytest

from halfeven.numerics.feedback import round_columns
from halfeven.numerics.native import BUILT, use_numpy


def run(shape: tuple[int, int, int], columns: tuple[int, int], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    groups, _, k = shape
    left = rng.normal(0, 40, shape)
    left[..., ::3] = np.round(left[..., ::3] * 2) / 2  # ties
    steps = np.repeat(2.0 ** rng.integers(-3, 2, (*shape[:2], 1)), k, 2)
    factor = np.triu(rng.normal(0, 0.3, (groups, k, k))) + 2 * np.eye(k)
    codes = np.zeros(shape)
    errors = round_columns(left, steps, factor, columns, (-127, 127), codes)
    return [left, codes, errors]


@pytest.mark.skipif(not BUILT, reason="the C++ extension is not built")
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 9), (5, 1, 9), (2, 16, 130), (3, 33, 64)])
@pytest.mark.parametrize("part", [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.3, 0.3)])
def test_codes_errors_and_what_is_left_are_those_of_numpy(
    shape: tuple[int, int, int], part: tuple[float, float]
) -> None:
    columns = int(part[0] * shape[2]), int(part[1] * shape[2])
    fast = run(shape, columns, seed=3)
    with use_numpy():
        plain = run(shape, columns, seed=3)
    for ours, definition in zip(fast, plain, strict=True):
        assert np.array_equal(ours, definition)


def test_each_column_takes_up_the_errors_of_those_before_it() -> None:
    left, factor = np.array([[[1.4, 1.0]]]), np.array([[[2.0, 1.0], [0.0, 2.0]]])
    codes = np.zeros((1, 1, 2))
    errors = round_columns(left, np.ones((1, 1, 2)), factor, (0, 2), (-8, 7), codes)
    assert codes.tolist() == [[[1.0, 1.0]]]
    assert errors[0, 0, 0] == pytest.approx(0.2)  # 0.4 / 2
    assert left[0, 0, 1] == pytest.approx(0.8)  # 1 - 0.2 * 1
