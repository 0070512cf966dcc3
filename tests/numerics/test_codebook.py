"""Promised: a code is that of the nearest value; the fitted table is the best there is for few distinct values (checked
against every partition), and for many no worse than evenly spaced ones; a seed fixes it.
"""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.codebook import EXACT, NF4, CodebookGrid, fit_codebook
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import fake_quantize, params_of, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, Scheme, per_channel


def error(x: np.ndarray, grid: CodebookGrid) -> float:
    """The sum of squared errors at scale 1."""
    return float(np.square(x - grid.decode(grid.encode(x)).astype(np.float64)).sum())


@given(x=st.floats(width=32, allow_nan=False))
def test_the_code_is_that_of_the_nearest_value(x: float) -> None:
    table = np.array(NF4.values)
    distance = np.abs(np.clip(x, -2.0, 2.0) - table)
    code = int(NF4.encode(np.array([x], np.float32))[0])
    assert distance[code] == pytest.approx(distance.min(), abs=1e-15)


def test_midway_the_lower_value_wins_and_nan_gets_code_0() -> None:
    grid = CodebookGrid((-1.0, 0.0, 3.0))
    x = np.array([-0.5, 1.5, np.nextafter(np.float32(1.5), np.float32(2)), np.inf, -np.inf, np.nan], np.float32)
    assert grid.encode(x).tolist() == [0, 1, 2, 2, 0, 0]


def best_error(values: np.ndarray, levels: int) -> float:
    """The least error over all cuts of the sorted values."""
    values = np.sort(values.astype(np.float64))
    return min(
        sum(float(np.square(part - part.mean()).sum()) for part in np.split(values, cuts))
        for cuts in combinations(range(1, len(values)), levels - 1)
    )


@settings(max_examples=40)
@given(x=st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=9, unique=True), levels=st.integers(1, 4))
def test_of_few_values_the_fitted_table_is_the_best_of_all_partitions(x: list[float], levels: int) -> None:
    values = np.array(x, np.float32)
    grid = fit_codebook(values, levels, np.random.default_rng(0))
    assert len(grid.values) <= levels
    # centres are rounded to float32: each value is off by at most half an ulp of 100
    assert error(values, grid) <= best_error(values, min(levels, len(x))) * (1 + 1e-6) + 1e-9


def test_as_many_levels_as_values_leave_no_error() -> None:
    x = np.array([3.0, -1.5, 3.0, 0.25], np.float32)
    grid = fit_codebook(x, 5, np.random.default_rng(0))
    assert grid.values == (-1.5, 0.25, 3.0)
    assert error(x, grid) == 0


@pytest.mark.parametrize("levels", [2, 16, 200])
def test_of_many_values_the_table_beats_even_spacing_and_a_seed_fixes_it(levels: int) -> None:
    x = np.random.default_rng(5).standard_t(4, 20_000).astype(np.float32)
    assert np.unique(x).size > EXACT
    grid = fit_codebook(x, levels, np.random.default_rng(1))
    assert grid == fit_codebook(x, levels, np.random.default_rng(1))
    even = CodebookGrid(tuple(np.linspace(x.min(), x.max(), levels).astype(np.float32).tolist()))
    assert error(x, grid) < 0.7 * error(x, even)
    table, codes = np.array(grid.values), grid.encode(x)
    means = np.array([x[codes == code].astype(np.float64).mean() for code in range(len(table))])
    np.testing.assert_allclose(table, means, rtol=1e-3, atol=1e-3)  # each centre is the mean of what it stands for


def test_the_two_ways_agree_where_both_can_be_used() -> None:
    x = np.random.default_rng(3).standard_normal(EXACT).astype(np.float32)
    exact = error(x, fit_codebook(x, 8, np.random.default_rng(0)))
    more = np.append(x, np.float32(0.123))
    lloyd = min(error(more, fit_codebook(more, 8, np.random.default_rng(seed))) for seed in range(8))
    assert exact <= lloyd <= 1.05 * exact


def test_a_scaled_table_serves_each_channel() -> None:
    x = (np.random.default_rng(0).standard_normal((3, 400)) * [[0.01], [1], [50]]).astype(np.float32)
    params = params_of(x, Scheme(NF4, per_channel(0)))
    np.testing.assert_array_equal(params.scale[:, 0], np.abs(x).max(1))
    assert (np.abs(fake_quantize(x, params)).max(1) == params.scale[:, 0]).all()
    nf4 = np.square(fake_quantize(x, params) - x).sum()
    int4 = Scheme(IntGrid(4), per_channel(0))
    assert nf4 < np.square(fake_quantize(x, params_of(x, int4)) - x).sum()  # what NF4 is for: normal weights


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "0 values"),
        ((1.0, 1.0), "strictly increasing"),
        ((0.0,), "one of them not zero"),
        ((0.1, 1.0), "a float32"),
    ],
)
def test_tables_that_are_none_are_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        CodebookGrid(values)


def test_what_cannot_be_fitted_is_refused() -> None:
    rng = np.random.default_rng(0)
    for x in (np.zeros(3, np.float32), np.array([], np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(BadCalibration, match="one of them not zero"):
            fit_codebook(x, 4, rng)
    with pytest.raises(BadOption, match="0 levels"):
        fit_codebook(np.ones(3, np.float32), 0, rng)
    params = QParams(Scheme(NF4), np.ones(1, np.float32), np.zeros(1, np.int32))
    with pytest.raises(BadOption, match="no ties"):
        quantize(np.ones(1, np.float32), params, Rounding.CEIL)
