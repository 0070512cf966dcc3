"""The least squared error is found: nothing in a brute-force grid of ranges is better by more than 0.5 %."""

import numpy as np
import pytest

from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.native import use_numpy
from halfeven.numerics.scheme import ScaleRule, Scheme, ZeroRule
from halfeven.stats.density import Density, Errors, expected_error
from halfeven.stats.histogram import Histogram
from halfeven.stats.search import least_error_range

RNG = np.random.default_rng(7)
DATA = {
    "normal": RNG.standard_normal(50_000),
    "relu": np.maximum(RNG.standard_normal(50_000), 0),
    "heavy tails": RNG.standard_t(3, 50_000),
    "lopsided": RNG.gumbel(size=50_000) * 3,
    "gelu": (x := RNG.standard_normal(50_000) * 2) / (1 + np.exp(-1.7 * x)),
    "one outlier": np.append(RNG.standard_normal(50_000), 3000.0),
    "negative": -RNG.exponential(size=50_000),
    "even": RNG.uniform(-0.7, 1.3, 50_000),
}
SYMMETRIC = [Scheme(INT8), Scheme(INT8_NARROW), Scheme(IntGrid(4)), Scheme(INT8, scale=ScaleRule.POWER_OF_TWO)]
AFFINE = [
    Scheme(UINT8, zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE),
    Scheme(UINT8, scale=ScaleRule.POWER_OF_TWO, zero_point=ZeroRule.FREE),
]


def found_error(histogram: Histogram, scheme: Scheme) -> float:
    return expected_error(histogram, *least_error_range(histogram, scheme), scheme)


@pytest.mark.parametrize("scheme", SYMMETRIC, ids=str)
@pytest.mark.parametrize("name", DATA)
def test_no_threshold_is_better(name: str, scheme: Scheme) -> None:
    histogram = Histogram.of(DATA[name].astype(np.float32))
    thresholds = np.linspace(1e-3, 1, 2000) * np.abs(DATA[name]).max()
    least = Errors(Density.of(histogram), scheme)(-thresholds, thresholds).min()
    assert found_error(histogram, scheme) <= 1.005 * least


@pytest.mark.parametrize("scheme", AFFINE, ids=str)
@pytest.mark.parametrize("name", DATA)
def test_no_pair_of_ends_is_better(name: str, scheme: Scheme) -> None:
    histogram = Histogram.of(DATA[name].astype(np.float32))
    fractions = np.concatenate([[0.0], 2.0 ** (-np.arange(96) / 12), np.linspace(0.5, 1, 40)])
    a, b = np.meshgrid(fractions, fractions)
    low, high = histogram.within(np.inf)
    least = Errors(Density.of(histogram), scheme)(a.ravel() * low, b.ravel() * high).min()
    assert found_error(histogram, scheme) <= 1.005 * least


@pytest.mark.parametrize("scheme", [*SYMMETRIC, *AFFINE], ids=str)
def test_numpy_finds_the_same_range(scheme: Scheme) -> None:
    histogram = Histogram.of(DATA["lopsided"].astype(np.float32))
    found = least_error_range(histogram, scheme)
    with use_numpy():
        assert least_error_range(histogram, scheme) == found


def test_a_few_values_far_below_zero_are_given_up() -> None:
    x = np.append(np.abs(RNG.standard_normal(100_000)), -0.02).astype(np.float32)
    low, high = least_error_range(Histogram.of(x), AFFINE[0])
    assert -0.02 <= low <= 0
    assert 3 < high < np.abs(x).max() + 0.01
