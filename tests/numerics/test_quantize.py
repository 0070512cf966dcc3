"""Quantize and dequantize: within half a step of every value in range, exact on zero and on codes, monotone; the
parameters of degenerate ranges; agreement with other definitions of the same formula.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, UINT8, IntGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, params_for, params_of, quantize, spread
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, Tiling, ZeroRule, per_channel

U8 = Scheme(UINT8, zero_point=ZeroRule.FREE)
SCHEMES = [
    Scheme(INT8),
    Scheme(INT8_NARROW),
    U8,
    Scheme(INT8, zero_point=ZeroRule.FREE),
    Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE),
    Scheme(INT16, scale=ScaleRule.POWER_OF_TWO),
]
BOUND = st.floats(-(2.0**100), 2.0**100, width=32)
RANGES = st.tuples(BOUND, BOUND).map(sorted)


def params(scale: float, zero: int = 0, scheme: Scheme = U8) -> QParams:
    return QParams(scheme, np.array([scale], np.float32), np.array([zero], np.int32))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(bounds=RANGES, share=st.floats(0, 1))
def test_a_value_in_range_moves_by_half_a_step_at_most(scheme: Scheme, bounds: list[float], share: float) -> None:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    fitted = params_for(low, high, scheme, rank=1)
    scale, zero = float(fitted.scale[0]), int(fitted.zero_point[0])
    first, last = ((code - zero) * scale for code in (scheme.grid.low, scheme.grid.high))
    x = np.array([min(max(low + share * (high - low), first), last)], np.float32)
    slack = 4 * float(np.spacing(np.float32(max(abs(first), abs(last)))))  # float32 division, product and clipping
    assert abs(float(fake_quantize(x, fitted)[0]) - float(x[0])) <= scale / 2 + slack


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(bounds=RANGES)
def test_the_grid_covers_the_range_but_for_half_a_step(scheme: Scheme, bounds: list[float]) -> None:
    fitted = params_for(bounds[0], bounds[1], scheme, rank=1)
    scale, zero = float(fitted.scale[0]), int(fitted.zero_point[0])
    if scale == 1.0 and max(-bounds[0], bounds[1]) < 1e-30:
        return  # the range is too small for a float32 scale
    slack = scale * (0.5 + 2.0**-23 * (scheme.grid.high - scheme.grid.low))  # the scale is rounded to float32
    assert (scheme.grid.low - zero) * scale <= bounds[0] + slack
    assert (scheme.grid.high - zero) * scale >= bounds[1] - slack


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(bounds=RANGES)
def test_zero_is_exact(scheme: Scheme, bounds: list[float]) -> None:
    fitted = params_for(bounds[0], bounds[1], scheme, rank=1)
    assert fake_quantize(np.zeros(1, np.float32), fitted)[0] == 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(bounds=RANGES)
def test_codes_survive_dequantizing(scheme: Scheme, bounds: list[float]) -> None:
    fitted = params_for(bounds[0], bounds[1], scheme, rank=1)
    codes = np.linspace(scheme.grid.low, scheme.grid.high, 997).astype(scheme.grid.dtype)
    np.testing.assert_array_equal(quantize(dequantize(codes, fitted), fitted), codes, strict=True)


@given(
    x=hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)),
    scale=st.floats(2.0**-100, 2.0**100, width=32),
    zero=st.integers(0, 255),
)
def test_quantizing_is_monotone(x: np.ndarray, scale: float, zero: int) -> None:
    codes = quantize(np.sort(x), params(scale, zero)).astype(int)
    assert (np.diff(codes) >= 0).all()


@pytest.mark.parametrize("rule", Rounding)
def test_ties_go_where_the_rule_sends_them_before_the_zero_point_is_added(rule: Rounding) -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert (quantize(x, params(1.0, 7), rule).astype(int) - 7).tolist() == rule(x).astype(int).tolist()


def test_saturation_and_special_values() -> None:
    x = np.array([-np.inf, -3e38, -1.0, np.nan, 1.0, 3e38, np.inf], np.float32)
    assert quantize(x, params(1e-3, 10)).tolist() == [0, 0, 0, 0, 255, 255, 255]
    signed = params(1e-3, 0, Scheme(INT8_NARROW))
    assert quantize(x, signed).tolist() == [-127, -127, -127, -127, 127, 127, 127]


@given(value=st.integers(-(2**31), 2**31 - 1))
def test_int32_codes_are_not_rounded_to_float32(value: int) -> None:
    one = params(1.0, 0, Scheme(INT32))
    x = np.array([value], np.float32)
    expected = min(max(int(x[0]), -(2**31)), 2**31 - 1)
    assert int(quantize(x, one)[0]) == expected


# How ONNX Runtime's quantizer and ours treat degenerate ranges on uint8: (low, high) to scale, zero point.
DEGENERATE = {
    (0.0, 0.0): (1.0, 0),
    (3.0, 3.0): (3 / 255, 0),
    (-3.0, -3.0): (3 / 255, 255),
    (1.0, 5.0): (5 / 255, 0),
    (-1e-40, 1e-40): (1.0, 0),
    (-1e-38, 1e-38): (1.0, 0),
    (-3e38, 3e38): (6e38 / 255, 128),
    (-1.0, 1.0): (2 / 255, 128),  # 127.5 goes to the even 128
}


@pytest.mark.parametrize("bounds", DEGENERATE, ids=str)
def test_degenerate_ranges(bounds: tuple[float, float]) -> None:
    fitted = params_for(*bounds, U8)
    scale, zero = DEGENERATE[bounds]
    assert (fitted.scale[()], fitted.zero_point[()]) == (np.float32(scale), zero)


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (np.nan, 1.0), (-np.inf, 0.0), (1.0, -1.0)])
def test_a_range_that_is_not_finite_or_not_in_order_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(BadCalibration, match="cannot be quantized"):
        params_for(*bounds, U8)


def test_symmetric_scales_put_absmax_on_code_127_full_grid_or_narrow() -> None:
    for grid in (INT8, INT8_NARROW):
        fitted = params_for(-2.0, 12.7, Scheme(grid), rank=1)
        assert fitted.scale[0] == np.float32(0.1)
        assert quantize(np.array([12.7], np.float32), fitted)[0] == 127


@given(most=st.floats(2.0**-90, 2.0**90, width=32))
def test_a_power_of_two_scale_is_the_least_that_covers_the_range(most: float) -> None:
    scale = Fraction(float(params_for(-most, most, Scheme(INT8, scale=ScaleRule.POWER_OF_TWO)).scale[()]))
    assert scale.numerator == 1 or scale.denominator == 1
    assert scale.numerator & (scale.numerator - 1) == 0
    assert scale.denominator & (scale.denominator - 1) == 0
    assert scale * 127 >= Fraction(most) > scale / 2 * 127 * Fraction(999999, 1000000)


def test_each_tile_gets_its_own_parameters() -> None:
    x = np.array([[1, -2, 30, 40], [5, 6, -70, 8]], np.float32)
    by_row = params_of(x, Scheme(INT8, per_channel(0)))
    assert by_row.scale.tolist() == [[np.float32(40 / 127)], [np.float32(70 / 127)]]
    by_block = params_of(x, Scheme(INT8, Tiling(((0, 1), (1, 2)))))
    assert by_block.scale.tolist() == [[np.float32(m / 127) for m in row] for row in ((2, 40), (6, 70))]
    np.testing.assert_array_equal(np.abs(quantize(x, by_block)).reshape(2, 2, 2).max(-1), [[127, 127], [127, 127]])
    assert params_of(x, Scheme(INT8)).scale.shape == (1, 1)
    assert params_of(np.zeros((0, 4), np.float32), Scheme(INT8)).scale.tolist() == [[1.0]]


@given(shape=st.sampled_from([(4, 6), (2, 12), (8, 3)]), rows=st.sampled_from([1, 2]), columns=st.sampled_from([1, 3]))
def test_spread_repeats_each_value_over_its_tile(shape: tuple[int, int], rows: int, columns: int) -> None:
    tiling = Tiling(((0, rows), (1, columns)))
    values = np.arange(np.prod(tiling.scale_shape(shape))).reshape(tiling.scale_shape(shape))
    full = np.broadcast_to(spread(values, shape), shape)
    for (i, j), value in np.ndenumerate(full):
        assert value == values[i // rows, j // columns]
