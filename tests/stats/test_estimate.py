"""Estimates: each method's range on data where it is known, wrong options and unusable evidence refused in words,
degenerate tensors handled.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.quantize import fake_quantize, params_for
from halfeven.numerics.scheme import ScaleRule, Scheme, ZeroRule
from halfeven.stats.density import expected_error
from halfeven.stats.estimate import METHODS, choose, estimate, method_named
from halfeven.stats.histogram import Histogram
from halfeven.stats.summary import Extrema, MovingAverage

SYMMETRIC = Scheme(INT8)
AFFINE = Scheme(UINT8, zero_point=ZeroRule.FREE)
SCHEMES = [
    SYMMETRIC,
    AFFINE,
    Scheme(INT8_NARROW),
    Scheme(INT8, scale=ScaleRule.POWER_OF_TWO),
    Scheme(UINT8, scale=ScaleRule.POWER_OF_TWO, zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4)),
    Scheme(IntGrid(16), zero_point=ZeroRule.FREE),
]
ON_HISTOGRAMS = [name for name in METHODS if name != "moving-average"]


def normal(size: int = 50_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def true_error(x: np.ndarray, low: float, high: float, scheme: Scheme) -> float:
    quantized = fake_quantize(x, params_for(low, high, scheme, rank=1))
    return float(np.mean((x.astype(np.float64) - quantized) ** 2))


def test_minmax_is_the_extrema_of_either_summary() -> None:
    x = normal()
    expected = (float(x.min()), float(x.max()))
    assert estimate("minmax", Extrema.of(x), AFFINE) == expected
    assert estimate("minmax", Histogram.of(x), AFFINE) == expected


def test_the_moving_average_is_its_summary_s() -> None:
    x = normal().reshape(100, -1)
    average = MovingAverage.of(x)
    assert estimate("moving-average", average, AFFINE) == (average.low, average.high)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99, 100.0])
def test_percentiles_are_within_a_bin_of_numpy_s(percentile: float) -> None:
    x = normal() + np.float32(0.3)
    histogram = Histogram.of(x)
    width = 2.0**histogram.exponent
    low, high = estimate("percentile", histogram, AFFINE, percentile=percentile)
    assert high == pytest.approx(np.percentile(x, percentile, method="inverted_cdf"), abs=width)
    assert low == pytest.approx(np.percentile(x, 100 - percentile, method="inverted_cdf"), abs=width)
    threshold = max(-(ends := estimate("percentile", histogram, SYMMETRIC, percentile=percentile))[0], ends[1])
    assert threshold == pytest.approx(np.percentile(np.abs(x), percentile, method="inverted_cdf"), abs=width)


def test_percentiles_count_zeros() -> None:
    x = np.maximum(normal(), 0)
    _, high = estimate("percentile", Histogram.of(x), AFFINE, percentile=99.0)
    assert high == pytest.approx(np.percentile(x, 99.0), abs=0.01)
    mostly_zero = np.append(np.zeros(10_000, np.float32), [1.0, -1.0]).astype(np.float32)
    assert estimate("percentile", Histogram.of(mostly_zero), AFFINE, percentile=99.0) == (0.0, 0.0)


def test_one_outlier_among_many_values_is_cut_by_all_but_minmax() -> None:
    x = np.append(np.random.default_rng(0).uniform(-100, 100, 100_000), 10_000).astype(np.float32)
    histogram = Histogram.of(x)
    assert estimate("minmax", histogram, SYMMETRIC)[1] == 10_000
    assert estimate("percentile", histogram, SYMMETRIC)[1] < 110


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("method", ON_HISTOGRAMS)
def test_a_tensor_of_zeros_has_the_range_zero(method: str, scheme: Scheme) -> None:
    assert estimate(method, Histogram.of(np.zeros(9, np.float32)), scheme) == (0.0, 0.0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("method", ON_HISTOGRAMS)
@pytest.mark.parametrize("value", [2.7, -2.7, 127.1, 1e-40, -3e38, 1.0])
def test_a_constant_is_kept_within_the_step_of_minmax(method: str, scheme: Scheme, value: float) -> None:
    x = np.full(1000, value, np.float32)
    low, high = estimate(method, Histogram.of(x), scheme)
    step = float(params_for(min(value, 0), max(value, 0), scheme).scale[()])
    assert true_error(x, low, high, scheme) <= step**2


@pytest.mark.parametrize("method", ON_HISTOGRAMS)
@given(
    x=hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_every_range_can_be_quantized(method: str, x: np.ndarray) -> None:
    histogram = Histogram.of(x)
    for scheme in SCHEMES:
        low, high = estimate(method, histogram, scheme)
        assert low <= high, scheme
        params_for(low, high, scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("method", ON_HISTOGRAMS)
@pytest.mark.parametrize("values", [[0.0] + [7.7286e-41] * 28, [1.1754944e-38, 1.4349296e-42], [9.18e-41, 4.7e-38]])
def test_subnormal_values_have_a_range(method: str, scheme: Scheme, values: list[float]) -> None:
    low, high = estimate(method, Histogram.of(np.array(values, np.float32)), scheme)
    assert low <= high
    params_for(low, high, scheme)


def test_infinities_do_not_count() -> None:
    x = np.append(normal(1000), [np.inf, -np.inf]).astype(np.float32)
    assert estimate("mse", Histogram.of(x), AFFINE) == estimate("mse", Histogram.of(x[:-2]), AFFINE)


@pytest.mark.parametrize("method", ON_HISTOGRAMS)
def test_nan_is_refused(method: str) -> None:
    with pytest.raises(BadCalibration, match="2 NaN were seen in calibration"):
        estimate(method, Histogram.of(np.array([1, np.nan, np.nan], np.float32)), AFFINE)


def test_nothing_seen_is_refused() -> None:
    with pytest.raises(BadCalibration, match="saw no element here"):
        estimate("minmax", Extrema(), AFFINE)
    with pytest.raises(BadCalibration, match=r"saw only infinities \(1\)"):
        estimate("mse", Histogram.of(np.array([np.inf], np.float32)), AFFINE)


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        BadOption, match=r"no calibration method 'entropie'. Did you mean 'entropy'\? There are minmax,"
    ):
        method_named("entropie")
    with pytest.raises(BadOption, match=r"no calibration method 'xyz'. There are minmax, moving-average"):
        estimate("xyz", Extrema(), AFFINE)


def test_an_unknown_option_is_refused() -> None:
    histogram = Histogram.of(normal(10))
    with pytest.raises(BadOption, match="'percentile' has no option 'percent'; its options: percentile"):
        estimate("percentile", histogram, AFFINE, percent=99)
    with pytest.raises(BadOption, match="'mse' has no option 'percentile'; its options: none"):
        estimate("mse", histogram, AFFINE, percentile=99)


@pytest.mark.parametrize("percentile", [50.0, 0.9999, 100.1, -1.0, float("nan")])
def test_a_percentile_that_leaves_nothing_or_too_much_is_refused(percentile: float) -> None:
    with pytest.raises(BadOption, match="above 50, up to 100, was expected"):
        estimate("percentile", Histogram.of(normal(10)), AFFINE, percentile=percentile)


def test_a_summary_of_the_wrong_kind_is_refused() -> None:
    for method, summary in (("mse", Extrema.of(normal(9))), ("minmax", MovingAverage.of(normal(9)))):
        with pytest.raises(BadOption, match=f"{method!r} reads a .* but a {summary.kind} was collected"):
            estimate(method, summary, AFFINE)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_auto_takes_the_method_of_least_expected_error(scheme: Scheme) -> None:
    x = np.random.default_rng(5).standard_t(3, 30_000).astype(np.float32)
    histogram = Histogram.of(x)
    choice = choose(histogram, scheme)
    errors = {
        name: expected_error(histogram, *estimate(name, histogram, scheme), scheme)
        for name in ("minmax", "percentile", "entropy", "mse")
    }
    assert choice.error == errors[choice.method] <= 1.01 * min(errors.values())
    assert estimate("auto", histogram, scheme) == (choice.low, choice.high)


def test_auto_takes_minmax_when_clipping_gains_nothing() -> None:
    levels = np.repeat(np.arange(256, dtype=np.float32) / 255, 100)  # pictures: every value is a code of [0, 1]
    assert choose(Histogram.of(levels), AFFINE).method == "minmax"
    assert estimate("mse", Histogram.of(levels), AFFINE) == (0.0, 1.0)
