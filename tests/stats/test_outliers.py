"""Observers on the data that they are taught with: ninety-nine values of a hundred within [-100, 100] and one of 10000,
running extrema from nothing, moving averages, weights that are static, and thresholds that saturate.
"""

import numpy as np
import pytest

from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.quantize import fake_quantize, params_for, params_of
from halfeven.numerics.scheme import Scheme, Tiling, ZeroRule, per_channel
from halfeven.stats.density import expected_error
from halfeven.stats.estimate import METHODS, estimate
from halfeven.stats.histogram import Histogram
from halfeven.stats.kl import histogram_of, kl_range, threshold
from halfeven.stats.summary import Extrema, MovingAverage

SYMMETRIC, AFFINE = Scheme(INT8), Scheme(UINT8, zero_point=ZeroRule.FREE)
BODY = np.random.default_rng(0).uniform(-100, 100, 9900).astype(np.float32)
STRESS = np.append(BODY, np.full(100, 10_000, np.float32))  # "99 % in [-100, 100], one 10000", a hundred times
ONE = np.append(np.random.default_rng(1).uniform(-100, 100, 99_999), 10_000).astype(np.float32)


def body_error(values: np.ndarray, low: float, high: float, scheme: Scheme) -> float:
    """Root mean square error of what lies within [-100, 100]."""
    body = values[np.abs(values) <= 100]
    quantized = fake_quantize(body, params_for(low, high, scheme, rank=1))
    return float(np.sqrt(np.mean((body.astype(np.float64) - quantized) ** 2)))


def test_minmax_loses_the_body_to_the_outlier() -> None:
    low, high = estimate("minmax", Histogram.of(ONE), SYMMETRIC)
    assert high == 10_000
    step = high / 127
    assert body_error(ONE, low, high, SYMMETRIC) > 0.2 * step > 15  # of values up to 100


@pytest.mark.parametrize(
    ("method", "scheme", "most"),
    [
        ("percentile", SYMMETRIC, 110),
        ("percentile", AFFINE, 110),
        ("sigma", SYMMETRIC, 500),
        ("aciq", SYMMETRIC, 900),
        ("octav", SYMMETRIC, 10_000),
    ],
)
def test_methods_that_cut_keep_the_body(method: str, scheme: Scheme, most: float) -> None:
    low, high = estimate(method, Histogram.of(ONE), scheme)
    assert 0 < high <= most
    if most < 10_000:
        minmax = estimate("minmax", Histogram.of(ONE), scheme)
        assert body_error(ONE, low, high, scheme) < 0.3 * body_error(ONE, *minmax, scheme)


@pytest.mark.parametrize("scheme", [SYMMETRIC, AFFINE], ids=str)
@pytest.mark.parametrize("values", [STRESS, ONE], ids=["one of a hundred", "one of 100 000"])
def test_least_error_is_least_outlier_or_not(values: np.ndarray, scheme: Scheme) -> None:
    """Cutting 10000 down to 100 costs 9900 squared, which one of a hundred is enough to forbid."""
    histogram = Histogram.of(values)
    errors = {name: expected_error(histogram, *estimate(name, histogram, scheme), scheme) for name in ON_HISTOGRAMS}
    assert errors["mse"] <= 1.01 * min(errors.values())
    assert errors["auto"] <= 1.02 * min(errors[name] for name in ("minmax", "percentile", "entropy", "mse"))
    assert errors["admm"] <= errors["minmax"] * (1 + 1e-6)


ON_HISTOGRAMS = [name for name in METHODS if name != "moving-average"]


@pytest.mark.parametrize("method", ON_HISTOGRAMS)
@pytest.mark.parametrize("scheme", [SYMMETRIC, AFFINE], ids=str)
def test_every_method_gives_a_range_within_reason(method: str, scheme: Scheme) -> None:
    for values in (STRESS, ONE):
        low, high = estimate(method, Histogram.of(values), scheme)
        assert -10_100 <= low <= 0 < high <= 10_100
        assert np.isfinite(params_for(low, high, scheme).scale).all()


@pytest.mark.parametrize("variant", ["mxnet", "ncnn", "ppq"])
def test_entropy_with_smoothing_cuts_the_outlier(variant: str) -> None:
    low, high = kl_range(variant, [ONE])
    assert 0 < high == -low < 1000  # the least that they try: 128 of 2048 bins are 625


@pytest.mark.parametrize("variant", ["tensorrt", "pytorch-quantization", "onnxruntime"])
def test_entropy_without_smoothing_cannot(variant: str) -> None:
    """Wherever the threshold falls between body and outlier, P holds the outlier in a bin that is empty in Q."""
    high = kl_range(variant, [ONE])[1]
    assert high == pytest.approx(10_000, rel=1e-3)
    assert estimate("entropy", Histogram.of(ONE), SYMMETRIC)[1] == 10_000
    found = threshold("tensorrt", histogram_of("tensorrt", [ONE]))
    assert np.isinf(found.divergences[:-1]).all()


def test_a_saturating_threshold_beats_the_unsaturated_range() -> None:
    x = np.random.default_rng(2).standard_t(4, 50_000).astype(np.float32)
    histogram = Histogram.of(x)
    errors = {name: expected_error(histogram, *estimate(name, histogram, SYMMETRIC), SYMMETRIC) for name in METHODS
              if name != "moving-average"}  # fmt: skip
    assert errors["mse"] < 0.9 * errors["minmax"]
    threshold = estimate("mse", histogram, SYMMETRIC)[1]
    assert threshold < np.abs(x).max()
    assert np.mean(np.abs(x) > threshold) < 0.01


@pytest.mark.parametrize("algorithm", ["minmax", "entropy", "admm"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("channelwise", [False, True])
def test_type_algorithm_and_granularity_combine(affine: bool, channelwise: bool, algorithm: str) -> None:
    """The three choices of a converter's configuration: symmetric or not; MINMAX, KL, ADMM; per channel or layer."""
    weight = np.random.default_rng(5).standard_t(5, (4, 3000)).astype(np.float32) * np.float32([[1], [2], [4], [8]])
    rule = ZeroRule.FREE if affine else ZeroRule.NONE
    scheme = Scheme(UINT8 if affine else INT8, per_channel(0) if channelwise else Tiling(), zero_point=rule)
    tiles = weight if channelwise else weight.reshape(1, -1)
    ranges = np.array([estimate(algorithm, Histogram.of(tile), scheme) for tile in tiles])
    params = params_for(*ranges.T.reshape(2, -1, 1), scheme)
    assert params.scale.shape == scheme.tiling.scale_shape(weight.shape)
    assert (params.zero_point != 0).all() == affine
    whole = params_of(weight, scheme)
    if algorithm == "minmax":
        np.testing.assert_array_equal(params.scale, whole.scale)
        np.testing.assert_array_equal(params.zero_point, whole.zero_point)
    else:
        assert (params.scale <= whole.scale * np.float32(1 + 1e-6)).all()
        assert (params.scale < whole.scale).any()
    if algorithm == "admm":
        errors = [np.mean(np.square(weight.astype(np.float64) - fake_quantize(weight, p))) for p in (params, whole)]
        assert errors[0] < errors[1]


def test_running_extrema_begin_with_nothing() -> None:
    """ "xmin = None": the first batch sets both ends, and zero is not among them unless it was seen."""
    running = Extrema()
    assert running.empty
    expected = (np.inf, -np.inf)
    for batch in ([3.0, 5.0], [4.0], [-1.0, 2.0], [7.0]):
        running = running.then(np.array(batch, np.float32))
        expected = min(expected[0], *batch), max(expected[1], *batch)
        assert (running.low, running.high) == expected
    assert expected == (-1.0, 7.0)


def test_the_moving_average_weighs_each_sample_by_a_hundredth() -> None:
    samples = np.random.default_rng(3).standard_normal((50, 20)).astype(np.float32)
    low, high = float(samples[0].min()), float(samples[0].max())
    for sample in samples[1:]:
        low, high = 0.99 * low + 0.01 * float(sample.min()), 0.99 * high + 0.01 * float(sample.max())
    found = MovingAverage.of(samples)
    assert found.c == 0.01
    assert (found.low, found.high) == (low, high)


def test_of_weights_which_do_not_change_both_observers_see_the_extrema() -> None:
    w = np.random.default_rng(4).standard_normal((4, 9)).astype(np.float32)
    running, moving = Extrema(), MovingAverage()
    for _ in range(5):
        running, moving = running.then(w), moving.then(w[None])
    assert (running.low, running.high) == (float(w.min()), float(w.max()))
    assert (moving.low, moving.high) == pytest.approx((running.low, running.high), rel=1e-15)
    params = params_of(w, Scheme(INT8, per_channel(0)))
    np.testing.assert_array_equal(params.scale.ravel(), (np.abs(w).max(axis=1) / 127.0).astype(np.float32))
