"""Densities: the error expected of a grid is the error it makes, whatever the distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.numerics.grid import INT8, UINT8, IntGrid
from halfeven.numerics.native import use_numpy
from halfeven.numerics.quantize import fake_quantize, params_for
from halfeven.numerics.scheme import ScaleRule, Scheme, ZeroRule
from halfeven.stats.density import Density, expected_error
from halfeven.stats.histogram import Histogram

SCHEMES = [
    Scheme(INT8),
    Scheme(UINT8, zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4)),
    Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE),
    Scheme(INT8, scale=ScaleRule.POWER_OF_TWO),
]
RNG = np.random.default_rng(11)
DATA = {
    "normal": RNG.standard_normal(200_000),
    "relu": np.maximum(RNG.standard_normal(200_000), 0),
    "heavy tails": RNG.standard_t(3, 200_000),
    "one-sided": RNG.exponential(size=200_000),
    "negative": -RNG.exponential(size=200_000),
    "lopsided": RNG.gumbel(size=200_000) * 3,
}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", DATA)
def test_the_expected_error_is_the_error_of_the_data(name: str, scheme: Scheme) -> None:
    """Within 1 %: of 200,000 errors the mean scatters by about 0.3 %."""
    x = DATA[name].astype(np.float32)
    histogram = Histogram.of(x)
    for share in (1.0, 0.6, 0.3):
        low, high = share * float(x.min()), share * float(x.max())
        true = np.mean((x.astype(np.float64) - fake_quantize(x, params_for(low, high, scheme, rank=1))) ** 2)
        assert expected_error(histogram, low, high, scheme) == pytest.approx(true, rel=0.01)


def test_the_expected_error_has_the_same_bits_in_numpy() -> None:
    histogram = Histogram.of(DATA["heavy tails"].astype(np.float32))
    for scheme in SCHEMES:
        found = expected_error(histogram, -3.0, 5.0, scheme)
        with use_numpy():
            assert expected_error(histogram, -3.0, 5.0, scheme) == found


def test_zeros_cost_nothing() -> None:
    x = DATA["relu"].astype(np.float32)
    only = Histogram.of(x[x > 0])
    share = only.sampled / x.size
    error = expected_error(Histogram.of(x), 0.0, 3.0, SCHEMES[0])
    assert error == pytest.approx(share * expected_error(only, 0.0, 3.0, SCHEMES[0]))


def test_a_histogram_of_zeros_expects_no_error() -> None:
    assert expected_error(Histogram.of(np.zeros(4, np.float32)), 0.0, 1.0, SCHEMES[0]) == 0.0


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), tail=st.floats(0, 0.5))
def test_quantiles_are_within_a_bin_of_the_sorted_values(values: list[float], tail: float) -> None:
    x = np.sort(np.array(values, np.float32))
    density = Density.of(Histogram.of(x))
    width = float(np.diff(density.edges).max(initial=0.0)) * (1 + 1e-9)
    outside = min(int(tail * x.size), x.size - 1)
    upper = x[int(np.ceil((1 - tail) * x.size)) - 1]
    assert abs(density.quantile(tail, upper=False) - x[outside]) <= width
    assert abs(density.quantile(1 - tail, upper=True) - upper) <= width


@given(values=st.lists(st.floats(-100, 100, width=32), max_size=30))
def test_folding_is_the_density_of_magnitudes(values: list[float]) -> None:
    x = np.array(values, np.float32)
    folded = Density.of(Histogram.of(x)).folded()
    assert folded.total == x.size
    assert (np.diff(folded.edges) > 0).all()
    assert folded.edges[0] == 0
    assert folded.quantile(1.0, upper=True) == pytest.approx(np.abs(x).max(initial=0), rel=1e-3)
