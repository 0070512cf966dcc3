"""Objectives: what lp, aciq, octav and sigma say they minimise or cover, they do; brute force finds nothing better."""

import math

import numpy as np
import pytest

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.quantize import fake_quantize, params_for
from halfeven.numerics.scheme import ScaleRule, Scheme, Tiling, ZeroRule, per_channel
from halfeven.stats import aciq
from halfeven.stats.aciq import (
    aciq_clip,
    aciq_range,
    laplace_clip,
    laplace_error,
    ncnn_aciq,
    normal_clip,
    normal_error,
)
from halfeven.stats.density import Density, expected_error
from halfeven.stats.estimate import METHODS, estimate
from halfeven.stats.histogram import Histogram
from halfeven.stats.lp import PowerErrors, lp_range
from halfeven.stats.octav import Clipping, newton_clip, octav_range
from halfeven.stats.search import least_error_range
from halfeven.stats.spread import Spread, lsq_scale, sigma_range

RNG = np.random.default_rng(11)
DATA = {
    "normal": RNG.standard_normal(30_000),
    "relu": np.maximum(RNG.standard_normal(30_000), 0),
    "heavy tails": RNG.standard_t(3, 30_000),
    "lopsided": RNG.gumbel(size=30_000) * 3,
    "laplace": RNG.laplace(size=30_000),
    "sparse": np.repeat([0.01, 0.3, -2.0, 17.0], [9000, 500, 40, 1]),
    "negative": -RNG.exponential(size=30_000),
}
SYMMETRIC = [Scheme(INT8), Scheme(IntGrid(4)), Scheme(INT8_NARROW, scale=ScaleRule.POWER_OF_TWO)]
AFFINE = [Scheme(UINT8, zero_point=ZeroRule.FREE), Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE)]


def histogram_of(name: str) -> Histogram:
    return Histogram.of(DATA[name].astype(np.float32))


# ------------------------------------------------------------------------------------------------------------- lp


@pytest.mark.parametrize("p", [1.0, 2.0, 2.4, 4.0])
@pytest.mark.parametrize("scheme", [SYMMETRIC[1], AFFINE[0]], ids=str)
def test_the_integral_is_the_mean_over_values_spread_in_their_bins(scheme: Scheme, p: float) -> None:
    histogram = histogram_of("lopsided")
    density = Density.of(histogram)
    within = (np.arange(200) + 0.5) / 200
    x = density.edges[:-1, None] + np.diff(density.edges)[:, None] * within
    for low, high in ((-2.0, 9.0), (-1.0, 30.0)):
        params = params_for(low, high, scheme, rank=2)
        error = np.abs(x - fake_quantize(x.astype(np.float32), params)) ** p
        expected = float((density.counts * error.mean(axis=1)).sum() / density.total)
        unit = max(-histogram.extrema.low, histogram.extrema.high)
        found = PowerErrors(density, scheme, p)(low, high)[0] * unit**p
        assert found == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("p", [1.0, 2.4, 6.0])
@pytest.mark.parametrize("scheme", SYMMETRIC, ids=str)
@pytest.mark.parametrize("name", DATA)
def test_no_threshold_has_less_lp_error(name: str, scheme: Scheme, p: float) -> None:
    histogram = histogram_of(name)
    errors = PowerErrors(Density.of(histogram), scheme, p)
    thresholds = np.linspace(1e-3, 1, 400) * np.abs(DATA[name]).max()
    assert errors(*lp_range(histogram, scheme, p))[0] <= 1.01 * errors(-thresholds, thresholds).min()


@pytest.mark.parametrize("name", ["normal", "relu", "lopsided"])
@pytest.mark.parametrize("scheme", AFFINE, ids=str)
def test_no_pair_of_ends_has_less_lp_error(name: str, scheme: Scheme) -> None:
    histogram = histogram_of(name)
    errors = PowerErrors(Density.of(histogram), scheme, 2.4)
    a, b = np.meshgrid(*[np.append(0.0, 2.0 ** (-np.arange(24) / 6))] * 2)
    low, high = histogram.within(np.inf)
    best = errors(a.ravel() * low, b.ravel() * high).min()
    assert errors(*lp_range(histogram, scheme))[0] <= 1.005 * best


@pytest.mark.parametrize("name", DATA)
def test_p_of_two_is_the_squared_error(name: str) -> None:
    histogram = histogram_of(name)
    for scheme in (*SYMMETRIC, *AFFINE):
        found = expected_error(histogram, *lp_range(histogram, scheme, 2.0), scheme)
        assert found == pytest.approx(
            expected_error(histogram, *least_error_range(histogram, scheme), scheme), rel=1e-3
        )


def test_a_larger_power_clips_less() -> None:
    histogram = histogram_of("heavy tails")
    reach = [lp_range(histogram, Scheme(IntGrid(4)), p)[1] for p in (1.0, 2.0, 4.0, 16.0)]
    assert reach == sorted(reach)
    assert reach[0] < reach[-1] / 2


# ----------------------------------------------------------------------------------------------------------- aciq


@pytest.mark.parametrize("steps", [1.0, 2.0, 8.0, 128.0, 256.0, 32768.0])
@pytest.mark.parametrize(("clip", "error"), [(normal_clip, normal_error), (laplace_clip, laplace_error)])
def test_no_clip_has_less_of_the_model_s_error(clip: type, error: type, steps: float) -> None:
    tried = np.linspace(1e-3, 30, 60_000)
    assert error(clip(steps), steps) <= min(error(float(t), steps) for t in tried)
    assert error(clip(steps), steps) == pytest.approx(min(error(float(t), steps) for t in tried), rel=1e-4)


def test_clips_are_those_of_the_paper_and_of_ncnn_s_table() -> None:
    published = (1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714)
    assert [normal_clip(2.0 ** (bits - 1)) for bits in range(2, 9)] == pytest.approx(published, rel=2e-5)
    laplace = (2.83, 3.89, 5.03, 6.20, 7.41, 8.64, 9.89)  # the paper's, cut or rounded to two places
    assert [laplace_clip(2.0 ** (bits - 1)) for bits in range(2, 9)] == pytest.approx(laplace, abs=0.0101)


@pytest.mark.parametrize(("name", "clip"), [("normal", normal_clip), ("Laplace", laplace_clip)])
def test_the_documented_table_is_that_of_the_functions(name: str, clip: type) -> None:
    assert aciq.__doc__ is not None
    (row,) = [line.split("t", 1)[1].split() for line in aciq.__doc__.splitlines() if line.startswith(f"    {name}, t")]
    assert row == [f"{clip(2.0 ** (bits - 1)):.6f}" for bits in range(2, 9)]


@pytest.mark.parametrize("laplace", [False, True])
def test_the_models_errors_are_those_of_drawn_values(laplace: bool) -> None:
    x = np.random.default_rng(0).laplace(size=400_000) if laplace else np.random.default_rng(0).standard_normal(400_000)
    alpha, steps = 3.0, 8
    clipped = np.clip(x, -alpha, alpha)
    middle = (np.floor(clipped / (alpha / steps)) + 0.5) * (alpha / steps)  # the model's grid: codes between edges
    drawn = np.mean((np.where(np.abs(x) < alpha, middle, clipped) - x) ** 2)
    model = (laplace_error if laplace else normal_error)(alpha, steps)
    assert drawn == pytest.approx(model, rel=0.06)


def test_distributions_of_known_shape_get_their_own_clip() -> None:
    scheme, x = Scheme(IntGrid(4)), np.random.default_rng(0)
    normal = Histogram.of((2.5 * x.standard_normal(200_000)).astype(np.float32))
    laplace = Histogram.of((2.5 * x.laplace(size=200_000)).astype(np.float32))
    assert aciq_clip(normal, scheme, laplace=False)[1] == pytest.approx(2.5 * 2.559, rel=0.01)
    assert aciq_clip(laplace, scheme, laplace=True)[1] == pytest.approx(2.5 * 5.029, rel=0.01)
    for histogram, shape in ((normal, False), (laplace, True)):
        errors = [expected_error(histogram, *aciq_clip(histogram, scheme, one), scheme) for one in (False, True)]
        assert aciq_range(histogram, scheme) == aciq_clip(histogram, scheme, errors[1] < errors[0])
        assert (errors[1] < errors[0]) == shape


def test_what_a_relu_leaves_is_half_a_normal_distribution() -> None:
    x = np.maximum(np.random.default_rng(0).standard_normal(200_000), 0).astype(np.float32)
    affine = Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE)
    low, high = aciq_clip(Histogram.of(x), affine, laplace=False)
    assert low == 0
    assert high == pytest.approx(normal_clip(16.0), rel=0.01)  # sixteen steps on one side: five bits on both
    assert aciq_clip(Histogram.of(x), Scheme(IntGrid(4)), laplace=False)[1] == pytest.approx(normal_clip(8.0), rel=0.01)


def test_the_mean_moves_an_affine_clip() -> None:
    x = (np.random.default_rng(0).standard_normal(200_000) + 1).astype(np.float32)
    low, high = aciq_clip(Histogram.of(x), Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE), laplace=False)
    assert (low, high) == pytest.approx((1 - 2.559, 1 + 2.559), rel=0.02)


def test_ncnn_takes_the_deviation_from_the_extrema() -> None:
    spread = 0.175 * (1 + math.sqrt(math.pi * math.log(4)))
    expected = 3.92403714 * 7.5 * 2 * spread / math.sqrt(2 * math.log(1000))
    assert ncnn_aciq(7.5, 1000) == pytest.approx(expected, rel=1e-7)
    assert ncnn_aciq(7.5, 1000, bits=2) == pytest.approx(expected * 1.71063519 / 3.92403714, rel=1e-6)
    with pytest.raises(BadOption, match="bits=9"):
        ncnn_aciq(1.0, 10, bits=9)
    with pytest.raises(BadCalibration, match="1 values were seen"):
        ncnn_aciq(1.0, 1)


# ---------------------------------------------------------------------------------------------------------- octav


def clipping_error(name: str, scheme: Scheme, threshold: float) -> float:
    """J over the values themselves."""
    x = np.abs(DATA[name].astype(np.float32).astype(np.float64))
    low, high = max(-threshold, min(DATA[name].min(), 0)), min(threshold, max(DATA[name].max(), 0))
    step = float(params_for(low, high, scheme).scale)
    return float(step**2 / 12 * np.mean((x > 0) & (x <= threshold)) + np.mean(np.maximum(x - threshold, 0) ** 2))


@pytest.mark.parametrize("scheme", [*SYMMETRIC, *AFFINE], ids=str)
@pytest.mark.parametrize("name", DATA)
def test_no_threshold_has_less_clipping_and_rounding_error(name: str, scheme: Scheme) -> None:
    histogram = histogram_of(name)
    low, high = octav_range(histogram, scheme)
    judge, reach = Clipping(histogram, scheme), np.abs(DATA[name]).max()
    tried = np.linspace(1e-3, 1, 3000) * reach
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        tried = 2.0 ** np.arange(-20, 6) * scheme.grid.high
    found = judge(np.array([max(-low, high)]))[0]
    assert found <= 1.0001 * judge(tried).min()


@pytest.mark.parametrize("name", ["normal", "relu", "heavy tails", "laplace"])
def test_the_histogram_s_objective_is_that_of_the_values(name: str) -> None:
    judge = Clipping(histogram_of(name), SYMMETRIC[1])
    for threshold in (0.3, 1.0, 2.7):
        expected = clipping_error(name, SYMMETRIC[1], threshold)
        assert judge(np.array([threshold]))[0] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("name", ["normal", "laplace", "relu"])
def test_newton_ends_where_it_moves_no_more_and_near_the_least_error(name: str, bits: int) -> None:
    x, scheme = DATA[name].astype(np.float32), Scheme(IntGrid(bits))
    found = newton_clip(x, scheme.grid.high, rounds=100)
    size = np.abs(x[x != 0]).astype(np.float64)
    beyond = size > found
    moved = size[beyond].sum() / (np.sum(~beyond) / (12 * scheme.grid.high**2) + np.sum(beyond))
    assert moved == pytest.approx(found, rel=1e-9)
    least = octav_range(histogram_of(name), scheme)[1]
    assert found == pytest.approx(least, rel=0.1 if bits == 8 else 0.03)  # at 8 bits J is flat, and noisy in the tail
    errors = [clipping_error(name, scheme, threshold) for threshold in (least, found)]
    assert errors[0] <= errors[1] * 1.002
    assert errors[1] <= errors[0] * 1.01


def test_newton_on_nothing_but_zeros_is_zero() -> None:
    assert newton_clip(np.zeros(4, np.float32), 128) == 0.0


def test_octav_s_normal_clip_is_near_aciq_s() -> None:
    """Both model rounding alike; ACIQ's is for a normal distribution, OCTAV's for what is there."""
    x = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    for bits in (3, 4, 6):
        steps = Scheme(IntGrid(bits)).grid.high
        assert octav_range(Histogram.of(x), Scheme(IntGrid(bits)))[1] == pytest.approx(normal_clip(steps), rel=0.02)


# --------------------------------------------------------------------------------------------------- sigma and lsq


@pytest.mark.parametrize("name", DATA)
def test_moments_are_those_of_the_values(name: str) -> None:
    x, spread = DATA[name], Spread.of(Density.of(histogram_of(name)))
    width = 2.0 ** histogram_of(name).exponent
    expected = [x.mean(), x.std(), np.abs(x - x.mean()).mean(), np.abs(x).mean(), np.mean(x != 0)]
    found = [spread.mean, spread.deviation, spread.distance, spread.magnitude, spread.share]
    np.testing.assert_allclose(found, expected, atol=width)
    assert spread.square == pytest.approx(np.mean(x * x), rel=0.01)


@pytest.mark.parametrize("sigmas", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("name", DATA)
def test_sigmas_cover_what_chebyshev_says(name: str, sigmas: float) -> None:
    low, high = sigma_range(histogram_of(name), AFFINE[0], sigmas)
    x = DATA[name].astype(np.float32)
    assert np.mean((x < low) | (x > high)) <= 1 / sigmas**2
    width = 2.0 ** histogram_of(name).exponent
    expected = (max(min(x.mean() - sigmas * x.std(), 0), min(x.min(), 0)), min(x.mean() + sigmas * x.std(), x.max()))
    np.testing.assert_allclose((low, high), (expected[0], max(expected[1], 0)), atol=(1 + sigmas) * width)
    symmetric = sigma_range(histogram_of(name), SYMMETRIC[0], sigmas)
    assert max(-symmetric[0], symmetric[1]) >= max(-low, high)


def test_lsq_s_first_scale_is_twice_the_mean_magnitude_over_the_root_of_the_highest_code() -> None:
    w = RNG.standard_normal((3, 8)).astype(np.float32)
    w[2] = 0
    for tiling, axes in ((Tiling(), (0, 1)), (per_channel(0), 1)):
        expected = 2 * np.abs(w).mean(axis=axes, keepdims=True) / np.sqrt(7)
        expected[expected == 0] = 1
        np.testing.assert_allclose(lsq_scale(w, Scheme(IntGrid(4), tiling)), expected, rtol=1e-6)
    blocks = lsq_scale(w, Scheme(IntGrid(4), Tiling(((0, 1), (1, 4)))))
    np.testing.assert_allclose(blocks[0, 1], 2 * np.abs(w[0, 4:]).mean() / np.sqrt(7), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- as methods


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lp", {"p": 0.5}, "a power from 1 to 16"),
        ("lp", {"p": math.nan}, "a power from 1 to 16"),
        ("sigma", {"sigmas": 0.0}, "a number of deviations above 0"),
        ("sigma", {"sigmas": math.inf}, "a number of deviations above 0"),
        ("octav", {"p": 2.0}, "has no option 'p'"),
    ],
)
def test_options_that_make_no_sense_are_refused(method: str, options: dict[str, float], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        estimate(method, histogram_of("normal"), SYMMETRIC[0], **options)


def test_options_reach_their_method() -> None:
    histogram = histogram_of("normal")
    assert estimate("lp", histogram, SYMMETRIC[1], p=4.0) == lp_range(histogram, SYMMETRIC[1], 4.0)
    assert estimate("sigma", histogram, SYMMETRIC[1], sigmas=2.0) == sigma_range(histogram, SYMMETRIC[1], 2.0)
    assert METHODS["lp"].options == {"p": 2.4}
    assert METHODS["sigma"].options == {"sigmas": 6.0}
