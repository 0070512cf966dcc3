"""Summaries: what each remembers, merging, what enters no range but is counted, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration
from halfeven.stats.summary import Extrema, MovingAverage

STREAM = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


@given(x=STREAM, cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted))
def test_extrema_do_not_depend_on_cuts_or_order(x: np.ndarray, cuts: list[int]) -> None:
    a, b, c = (Extrema.of(part) for part in np.split(x, cuts))
    assert a.merge(b).merge(c) == c.merge(a.merge(b)) == b.merge(c.merge(a)) == Extrema.of(x)


@given(x=STREAM)
def test_an_empty_summary_changes_nothing(x: np.ndarray) -> None:
    for empty, one in ((Extrema(), Extrema.of(x)), (MovingAverage(), MovingAverage.of(x))):
        assert empty.merge(one) == one.merge(empty) == one  # type: ignore[arg-type]


def test_extrema_count_what_they_leave_out() -> None:
    x = np.array([[1, np.nan, -np.inf], [np.inf, -3, np.nan]], np.float32)
    assert Extrema.of(x) == Extrema(-3.0, 1.0, count=6, nans=2, infs=2)


def test_of_no_finite_element_extrema_are_empty() -> None:
    assert Extrema().empty
    assert Extrema.of(np.array([np.nan, np.inf], np.float32)).empty
    assert not Extrema.of(np.zeros(1, np.float32)).empty


def test_minus_zero_is_zero() -> None:
    found = Extrema.of(np.array([-0.0], np.float32))
    assert (str(found.low), str(found.high)) == ("0.0", "0.0")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_read_as_float32(dtype: type[np.floating]) -> None:
    x = np.array([-1.5, 0.1, 3.0], dtype)
    assert Extrema.of(x) == Extrema(-1.5, 3.0, count=3)


def test_a_float64_beyond_float32_is_an_infinity() -> None:
    assert Extrema.of(np.array([1e300, 1.0])) == Extrema(1.0, 1.0, count=2, infs=1)


@pytest.mark.parametrize("x", [np.arange(3), np.array([True]), np.array(["a"]), np.zeros(2, np.complex64)], ids=str)
def test_what_holds_no_floats_is_refused(x: np.ndarray) -> None:
    with pytest.raises(BadCalibration, match="has no range to calibrate"):
        Extrema.of(x)


def test_the_first_sample_sets_the_average_and_each_later_one_moves_it() -> None:
    x = np.array([[-1.0, 2.0], [-2.0, 1.0], [0.0, 4.0]], np.float32)
    low, high = -1.0, 2.0
    for new_low, new_high in ((-2.0, 1.0), (0.0, 4.0)):
        low, high = 0.99 * low + 0.01 * new_low, 0.99 * high + 0.01 * new_high
    assert MovingAverage.of(x) == MovingAverage(low, high, samples=3)
    assert MovingAverage.of(x, c=0.5).high == (2 * 0.5 + 1 * 0.5) * 0.5 + 4 * 0.5


@given(x=hnp.arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32)), cut=st.integers(0, 6))
def test_the_size_of_the_batches_changes_no_average(x: np.ndarray, cut: int) -> None:
    assert MovingAverage.of(x[:cut]).then(x[cut:]) == MovingAverage.of(x)


def test_samples_without_a_finite_element_move_nothing() -> None:
    x = np.array([[np.nan, np.nan], [1.0, 2.0], [np.inf, np.nan]], np.float32)
    assert MovingAverage.of(x) == MovingAverage(1.0, 2.0, samples=3, nans=3, infs=1)


def test_a_scalar_is_one_sample() -> None:
    assert MovingAverage.of(np.array(2.0, np.float32)) == MovingAverage(2.0, 2.0, samples=1)


def test_two_moving_averages_do_not_merge_and_say_why() -> None:
    one = MovingAverage.of(np.ones((2, 3), np.float32))
    with pytest.raises(BadCalibration, match="of 2 and 2 samples cannot be merged, as the later samples weigh more"):
        one.merge(one)
