"""Bins: every value lies in the bin it is given, exactly; two bins make one; the width is a function of the extrema."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from halfeven.numerics.bins import BINS, MIN_EXPONENT, bin_of, bins_to, coarsen, exponent_for, sides

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NOT_ZERO = FINITE.filter(bool)


@given(x=NOT_ZERO, other=FINITE)
def test_a_value_lies_in_its_bin(x: float, other: float) -> None:
    exponent = exponent_for(min(x, other), max(x, other))
    b = int(bin_of(np.array([x], np.float32), exponent)[0])
    width = Fraction(2) ** exponent
    if x > 0:
        assert b * width <= Fraction(x) < (b + 1) * width
    else:
        assert b * width < Fraction(x) <= (b + 1) * width


@given(x=NOT_ZERO, steps=st.integers(0, 300))
def test_a_coarser_bin_is_the_finer_shifted(x: float, steps: int) -> None:
    exponent = exponent_for(min(x, 0), max(x, 0))
    coarser = min(exponent + steps, 126)
    value = np.array([x], np.float32)
    assert bin_of(value, coarser)[0] == bin_of(value, exponent)[0] >> (coarser - exponent)


@given(a=FINITE, b=FINITE)
def test_the_bins_suffice_and_half_as_wide_ones_would_not(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    exponent = exponent_for(low, high)
    assert sum(sides(low, high, exponent)) <= BINS
    assert exponent == MIN_EXPONENT or sum(sides(low, high, exponent - 1)) > BINS


@given(a=FINITE, b=FINITE)
def test_there_are_as_many_bins_as_promised(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    exponent = exponent_for(low, high)
    negative, positive = sides(low, high, exponent)
    if exponent > MIN_EXPONENT:
        assert max(negative, positive) > BINS // 4
        assert low < 0 < high or negative + positive > BINS // 2


@given(values=st.lists(FINITE, min_size=2))
def test_more_data_never_makes_bins_narrower(values: list[float]) -> None:
    part = values[:-1]
    assert exponent_for(min(part), max(part)) <= exponent_for(min(values), max(values))


def test_of_nothing_and_of_zeros_the_exponent_is_the_least() -> None:
    assert exponent_for(np.inf, -np.inf) == exponent_for(0.0, 0.0) == MIN_EXPONENT
    assert sides(np.inf, -np.inf, MIN_EXPONENT) == sides(0.0, 0.0, MIN_EXPONENT) == (0, 0)
    assert bins_to(0.0, 0) == 0


@given(negative=st.integers(0, 20), positive=st.integers(0, 20), shift=st.integers(0, 40))
def test_coarsening_puts_each_count_where_the_shifted_bin_is(negative: int, positive: int, shift: int) -> None:
    counts = 1 + np.arange(negative + positive, dtype=np.int64)
    coarse, below = coarsen(counts, negative, shift)
    expected = np.zeros_like(coarse)
    for i, count in enumerate(counts):
        expected[((i - negative) >> shift) + below] += count
    np.testing.assert_array_equal(coarse, expected)
    assert coarse.size == below + (positive + (1 << shift) - 1 >> shift)
