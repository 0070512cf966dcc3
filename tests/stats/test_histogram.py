"""Histograms: the same however a stream is cut and in whatever order merged, of bounded size, each value in its bin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.bins import BINS
from halfeven.stats.histogram import Histogram
from halfeven.stats.summary import Extrema

STREAM = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))
CUTS = st.lists(st.integers(0, 60), max_size=5).map(sorted)


@given(x=STREAM, cuts=CUTS, order=st.randoms())
def test_a_stream_cut_anywhere_and_merged_in_any_order_gives_the_identical_histogram(x, cuts, order) -> None:  # type: ignore[no-untyped-def]
    parts = [Histogram.of(part) for part in np.split(x, cuts)]
    order.shuffle(parts)
    while len(parts) > 1:
        i = order.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    assert parts[0] == Histogram.of(x)


@given(x=STREAM, cuts=CUTS)
def test_taking_part_after_part_is_taking_the_whole(x: np.ndarray, cuts: list[int]) -> None:
    found = Histogram()
    for part in np.split(x, cuts):
        found = found.then(part)
    assert found == Histogram.of(x)


@given(x=STREAM)
def test_an_empty_histogram_changes_nothing(x: np.ndarray) -> None:
    one = Histogram.of(x)
    assert Histogram().merge(one) == one == one.merge(Histogram())


@given(x=STREAM)
def test_its_size_is_bounded_and_its_counts_complete(x: np.ndarray) -> None:
    found = Histogram.of(x)
    assert found.counts.size <= BINS
    assert found.extrema == Extrema.of(x)
    assert found.sampled == np.isfinite(x).sum()
    assert found.zeros == (x == 0).sum()


def test_values_are_in_the_bins_that_np_histogram_gives_them() -> None:
    x = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    found = Histogram.of(x)
    edges = 2.0**found.exponent * np.arange(-found.negative, found.counts.size - found.negative + 1)
    # np.histogram's bins are closed on the left, ours towards zero: on the negative side, mirror.
    above = np.histogram(x[x > 0].astype(np.float64), edges[found.negative :])[0]
    below = np.histogram(-x[x < 0].astype(np.float64), -edges[: found.negative + 1][::-1])[0]
    np.testing.assert_array_equal(found.counts, np.concatenate([below[::-1], above]))


def test_a_stride_thins_the_counts_but_not_the_extrema() -> None:
    x = np.arange(-500, 500, dtype=np.float32)
    found = Histogram.of(x, stride=7)
    assert found.extrema == Extrema.of(x)
    assert found.sampled == x[::7].size
    assert found.counts.size == Histogram.of(x).counts.size


def test_a_stride_of_none_is_refused() -> None:
    with pytest.raises(BadOption, match="a stride of 0 was given"):
        Histogram.of(np.zeros(3, np.float32), stride=0)


def test_zeros_are_counted_apart() -> None:
    found = Histogram.of(np.array([0, -0.0, 0, 1], np.float32))
    assert (found.zeros, found.counts.sum(), found.negative) == (3, 1, 0)


def test_of_nothing_or_zeros_there_are_no_bins() -> None:
    assert Histogram.of(np.zeros((0, 3), np.float32)) == Histogram()
    assert Histogram().empty
    zeros = Histogram.of(np.zeros(5, np.float32))
    assert (zeros.counts.size, zeros.zeros, zeros.empty) == (0, 5, False)


def test_counts_that_do_not_fit_the_range_are_refused() -> None:
    with pytest.raises(BadCalibration, match=r"counts of shape \(3,\), but its range has 0 bins"):
        Histogram(counts=np.ones(3, np.int64))


def test_comparing_with_something_else_is_not_equality() -> None:
    assert Histogram() != Extrema()
