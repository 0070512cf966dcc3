"""ADMM: the alternation never makes the error more, ends where neither half can better the other, over tensors and
histograms alike, and is never worse than the range of the data.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, params_for, params_of, quantize, spread
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, Tiling, ZeroRule, per_channel
from halfeven.stats.admm import admm_params, admm_range, sums
from halfeven.stats.density import Density, expected_error
from halfeven.stats.estimate import estimate
from halfeven.stats.histogram import Histogram

RNG = np.random.default_rng(3)
WEIGHT = (RNG.standard_t(4, (6, 4, 3, 3)) * RNG.uniform(0.01, 2, (6, 1, 1, 1))).astype(np.float32)
SCHEMES = [
    Scheme(INT8_NARROW, per_channel(0)),
    Scheme(IntGrid(4), per_channel(0)),
    Scheme(IntGrid(2), per_channel(0)),
    Scheme(IntGrid(4)),
    Scheme(IntGrid(4), Tiling(((0, 1), (1, 2)))),
    Scheme(IntGrid(4, signed=False), per_channel(0), zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4), per_channel(0), scale=ScaleRule.POWER_OF_TWO),
]


def squared(w: np.ndarray, params: QParams) -> np.ndarray:
    """Squared error of each tile, shape of the scale."""
    error = np.square(w.astype(np.float64) - fake_quantize(w, params))
    shape = params.scale.shape
    split = [d for n, size in zip(shape, w.shape, strict=True) for d in (n, size // n)]
    return error.reshape(split).sum(axis=tuple(range(1, 2 * w.ndim, 2)))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_it_is_never_worse_than_the_range_of_the_tensor(scheme: Scheme) -> None:
    start, end = params_of(WEIGHT, scheme), admm_params(WEIGHT, scheme)
    np.testing.assert_array_equal(end.zero_point, start.zero_point)
    assert end.scale.shape == start.scale.shape
    assert (squared(WEIGHT, end) <= squared(WEIGHT, start) * (1 + 1e-6)).all()
    if scheme.grid.bits < 8:
        assert squared(WEIGHT, end).sum() < 0.95 * squared(WEIGHT, start).sum()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_at_the_end_no_scale_is_better_for_the_codes_and_no_codes_for_the_scale(scheme: Scheme) -> None:
    params = admm_params(WEIGHT, scheme)
    codes = quantize(WEIGHT, params)
    whole = params.scale.size == 1
    for share in (0.5, 0.99, 1.01, 2.0):  # another scale, the same codes
        if scheme.scale is ScaleRule.POWER_OF_TWO and share in (0.99, 1.01):
            continue
        moved = QParams(scheme, (params.scale * np.float32(share)).astype(np.float32), params.zero_point)
        other = np.square(WEIGHT.astype(np.float64) - dequantize(codes, moved))
        axes = None if whole else tuple(range(1, 4))
        if scheme.tiling.axis is not None or whole:
            assert (other.sum(axis=axes) >= squared(WEIGHT, params).reshape(-1) * (1 - 1e-6)).all()
    for step in (-1, 1):  # other codes, the same scale
        nearby = np.clip(codes.astype(np.int64) + step, scheme.grid.low, scheme.grid.high)
        other = np.abs(WEIGHT - dequantize(nearby, params))
        own = np.abs(WEIGHT - dequantize(codes, params))
        assert (other >= own - 1e-6 * spread(params.scale, WEIGHT.shape)).all()


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.scale is ScaleRule.FREE], ids=str)
def test_the_end_is_a_fixed_point(scheme: Scheme) -> None:
    params = admm_params(WEIGHT, scheme)
    offset = quantize(WEIGHT, params).astype(np.int64) - spread(params.zero_point, WEIGHT.shape)
    split = [d for n, size in zip(params.scale.shape, WEIGHT.shape, strict=True) for d in (n, size // n)]
    axes = tuple(range(1, 8, 2))
    product = (WEIGHT.astype(np.float64) * offset).reshape(split).sum(axis=axes)
    again = product / np.square(offset).reshape(split).sum(axis=axes)
    np.testing.assert_allclose(params.scale, again, rtol=1e-6)


@given(
    w=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.floats(-9, 9, width=32)),
    bits=st.integers(2, 5),
)
def test_few_weights_too_are_never_worse(w: np.ndarray, bits: int) -> None:
    scheme = Scheme(IntGrid(bits), per_channel(0))
    start, end = squared(w, params_of(w, scheme)), squared(w, admm_params(w, scheme))
    assert (end <= start + 1e-6 * np.square(w, dtype=np.float64).sum()).all()


def test_a_channel_of_zeros_keeps_its_scale() -> None:
    w = WEIGHT.copy()
    w[2] = 0
    found = admm_params(w, SCHEMES[0])
    assert found.scale[2].item() == 1.0
    np.testing.assert_array_equal(found.scale[3:], admm_params(WEIGHT, SCHEMES[0]).scale[3:])


def test_weights_that_a_scale_fits_exactly_get_that_scale() -> None:
    codes = np.array([[-7, 3, 7, 1, 0, -2, 5, 5]], np.float32)
    np.testing.assert_allclose(admm_params(codes * np.float32(0.3), Scheme(IntGrid(4))).scale, 0.3, rtol=1e-6)


DATA = {
    "normal": RNG.standard_normal(40_000),
    "relu": np.maximum(RNG.standard_normal(40_000), 0),
    "heavy tails": RNG.standard_t(3, 40_000),
    "lopsided": RNG.gumbel(size=40_000) * 3,
    "one outlier": np.append(RNG.standard_normal(40_000), 3000.0),
    "negative": -RNG.exponential(size=40_000),
}
ACTIVATIONS = [
    Scheme(INT8),
    Scheme(IntGrid(4)),
    Scheme(UINT8, zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4), scale=ScaleRule.POWER_OF_TWO),
    Scheme(UINT8, scale=ScaleRule.POWER_OF_TWO, zero_point=ZeroRule.FREE),
]


@pytest.mark.parametrize("scheme", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("name", DATA)
def test_a_histogram_s_range_is_never_worse_than_minmax(name: str, scheme: Scheme) -> None:
    histogram = Histogram.of(DATA[name].astype(np.float32))
    errors = [expected_error(histogram, *estimate(m, histogram, scheme), scheme) for m in ("minmax", "admm")]
    assert errors[1] <= errors[0] * (1 + 1e-6)


@pytest.mark.parametrize("scheme", ACTIVATIONS[:4], ids=str)
@pytest.mark.parametrize("name", ["normal", "relu", "lopsided", "negative"])
def test_a_histogram_s_scale_is_a_fixed_point(name: str, scheme: Scheme) -> None:
    histogram = Histogram.of(DATA[name].astype(np.float32))
    params = params_for(*admm_range(histogram, scheme), scheme)
    zero, scale = float(params.zero_point), float(params.scale)
    ends = scheme.grid.low - zero, scheme.grid.high - zero
    product, square = sums(*Density.of(histogram).weights(), scale, *ends)
    assert product / square == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("scale", "low", "high"), [(0.3, -8.0, 7.0), (0.01, -128.0, 127.0), (0.1, 0.0, 15.0)])
def test_the_sums_are_those_of_values_spread_in_their_bins(name: str, scale: float, low: float, high: float) -> None:
    density = Density.of(Histogram.of(DATA[name].astype(np.float32)))
    within = (np.arange(500) + 0.5) / 500
    x = density.edges[:-1, None] + np.diff(density.edges)[:, None] * within
    codes = np.clip(np.rint(x / scale), low, high)
    expected = [float((density.counts * one.mean(axis=1)).sum()) for one in (x * codes, codes * codes)]
    assert sums(*density.weights(), scale, low, high) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["normal", "heavy tails", "lopsided"])
def test_a_histogram_ends_where_the_values_themselves_do(name: str) -> None:
    x = DATA[name].astype(np.float32)
    scheme = Scheme(IntGrid(4))
    found = params_for(*admm_range(Histogram.of(x), scheme), scheme)
    assert float(found.scale) == pytest.approx(admm_params(x, scheme).scale.item(), rel=0.01)


def test_batches_stream() -> None:
    x = DATA["lopsided"].astype(np.float32)
    stream = Histogram()
    for part in np.array_split(x, 7)[::-1]:
        stream = stream.then(part)
    assert admm_range(stream, ACTIVATIONS[1]) == admm_range(Histogram.of(x), ACTIVATIONS[1])
