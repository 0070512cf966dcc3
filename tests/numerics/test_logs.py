"""Promised: the code of a log grid is the nearest exponent, decided exactly; zero has its own code or none; products of
values are sums of codes; the formulas of Miyashita and of Ristretto's multiplier-free weights come out of it.
"""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, params_of, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, per_channel

GRIDS = st.builds(
    LogGrid, st.integers(2, 12), st.booleans(), st.sampled_from([1, 2, 3, 4, 8, 100]), st.booleans(), st.booleans()
)


def params(grid: LogGrid, scale: float = 1.0) -> QParams[LogGrid]:
    return QParams(Scheme(grid), np.array([scale], np.float32), np.zeros(1, np.int32))


def nearest_exponent(x: float, steps: int) -> int:
    """rne(steps * log2 |x|) in 60 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        return int((abs(Decimal(x)).ln() / Decimal(2).ln() * steps).to_integral_value())


@given(grid=GRIDS, x=st.floats(2.0**-100, 2.0**100, width=32), negative=st.booleans())
def test_the_code_is_the_nearest_exponent(grid: LogGrid, x: float, negative: bool) -> None:
    size = min(grid.levels + nearest_exponent(x, grid.steps), grid.levels)
    expected = size if size >= 1 else 0 if grid.flush and grid.zero else 1
    if negative:
        expected = -expected if grid.signed else 1 - grid.zero
    assert grid.encode(np.array([-x if negative else x], np.float32))[0] == expected


@pytest.mark.parametrize("steps", range(1, 257))
def test_no_float32_is_as_near_to_one_step_as_to_the_next(steps: int) -> None:
    midpoints = LogGrid(4, steps=steps).midpoints()
    near = midpoints.astype(np.float32)
    # A float32 on the wrong side of the true midpoint would be within an error of exp2, some ulps of float64.
    assert (np.abs(near.astype(np.float64) - midpoints) > 4 * np.spacing(midpoints)).all()


def test_zero_infinity_and_nan_have_stated_codes() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45], np.float32)
    assert LogGrid(4).encode(x).tolist() == [0, 0, 7, -7, -7, 0, 0]
    assert LogGrid(4, flush=False).encode(x).tolist() == [0, 0, 7, -7, -7, 1, -1]
    assert LogGrid(4, zero=False).encode(x).tolist() == [1, 1, 8, -8, -8, 1, -1]
    assert LogGrid(4, signed=False).encode(x).tolist() == [0, 0, 15, 0, 0, 0, 0]


def test_miyashita_clips_the_rounded_logarithm_and_keeps_zero() -> None:
    grid, top = LogGrid(5, signed=False, flush=False), 3  # 31 exponents, from -27 to 3
    x = np.concatenate([[0.0], np.random.default_rng(0).lognormal(0, 9, 20_000)]).astype(np.float32)
    x = x[np.abs(np.log2(np.maximum(x, 1e-30)) % 1 - 0.5) > 1e-5]  # where float log2 cannot be wrong
    with np.errstate(divide="ignore"):
        q = np.clip(np.rint(np.log2(x)), top - 30, top)
    expected = np.where(x == 0, 0, 2.0**q)
    np.testing.assert_array_equal(fake_quantize(x, params(grid, 2.0**top)), expected)


def test_multiplier_free_weights_are_signs_and_exponents_from_minus_8_to_minus_1() -> None:
    w = np.array([0.0, -0.0, 0.001, 0.01, -0.3, 0.36, 0.7, 5.0, -9.0], np.float32)
    got = fake_quantize(w, params(LogGrid(4, zero=False), 0.5))
    expected = [2.0**-8, 2.0**-8, 2.0**-8, 2.0**-7, -(2.0**-2), 2.0**-1, 2.0**-1, 2.0**-1, -(2.0**-1)]
    assert got.tolist() == expected


@given(steps=st.sampled_from([1, 2, 4]), a=st.integers(-7, 7), b=st.integers(-7, 7))
def test_a_product_of_values_is_a_sum_of_codes(steps: int, a: int, b: int) -> None:
    grid = LogGrid(4, steps=steps)
    values = dequantize(np.array([a, b], np.int8), params(grid, 8.0)).astype(np.float64)
    sum_of_codes = abs(a) + abs(b) - 2 * grid.levels
    expected = np.sign(a) * np.sign(b) * 64 * 2.0 ** (sum_of_codes / steps)
    assert values[0] * values[1] == pytest.approx(expected, rel=0 if steps == 1 else 2e-7)


@given(grid=GRIDS)
def test_codes_survive_decoding_and_are_in_the_order_of_values(grid: LogGrid) -> None:
    low = -grid.levels if grid.signed else 0
    codes = np.array([c for c in range(low, grid.levels + 1) if c or grid.zero])
    values = grid.decode(codes)
    apart = np.diff(values) > 0
    kept = values != 0 if grid.zero else np.ones(codes.size, bool)
    normal = np.abs(values) >= 2.0**-126
    np.testing.assert_array_equal(grid.encode(values)[kept & normal], codes[kept & normal])
    assert (np.diff(values) >= 0).all()
    assert apart[(normal[1:] & normal[:-1])].all()
    assert np.iinfo(grid.dtype).min <= codes.min() <= codes.max() <= np.iinfo(grid.dtype).max


def test_scales_are_the_largest_magnitude_per_channel_and_may_be_powers_of_two() -> None:
    x = np.array([[0.3, -0.1], [5.0, -6.0]], np.float32)
    found = params_of(x, Scheme(LogGrid(4), per_channel(0), ScaleRule.POWER_OF_TWO))
    assert found.scale.tolist() == [[0.5], [8.0]]
    assert params_of(x, Scheme(LogGrid(4))).scale.tolist() == [[6.0]]


def test_finer_steps_are_nearer() -> None:
    x = np.random.default_rng(2).standard_normal(4000).astype(np.float32)
    errors = [
        float(np.square(fake_quantize(x, params_of(x, Scheme(LogGrid(8, steps=steps)))) - x).mean())
        for steps in (1, 2, 4, 8)
    ]
    assert errors[3] < errors[2] / 2 < errors[1] / 4 < errors[0] / 8


@pytest.mark.parametrize(
    ("bits", "options"), [(1, {}), (17, {}), (0, {"signed": False, "zero": False}), (4, {"steps": 0})]
)
def test_grids_that_do_not_exist_are_refused(bits: int, options: dict[str, bool]) -> None:
    with pytest.raises(BadOption, match="LogGrid: "):
        LogGrid(bits, **options)


def test_a_rounding_rule_is_refused_as_there_are_no_ties() -> None:
    with pytest.raises(BadOption, match="log4 codes are the nearest; there are no ties for 'half_up'"):
        quantize(np.ones(1, np.float32), params(LogGrid(4)), Rounding.HALF_UP)


def test_names() -> None:
    grids = (LogGrid(4), LogGrid(8, signed=False, steps=4), LogGrid(4, zero=False))
    assert [str(grid) for grid in grids] == ["log4", "ulog8 1/4 octave", "log4 without zero"]
