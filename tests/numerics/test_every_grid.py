"""Promised of every grid, with every tiling and scale rule that it takes, by one `quantize` and one `dequantize`: codes
come back, values are in order, the error inside the range is at most half a step, zero is exact, what is too large
saturates; a scheme in JSON gives the same back; what makes no sense is refused.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics import floats
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.codebook import NF4, CodebookGrid
from halfeven.numerics.floats import FloatGrid, Specials
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, UINT8, Grid, IntGrid, grid_from_json, grid_to_json
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, params_for, params_of, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import (
    PER_TENSOR,
    QParams,
    ScaleRule,
    Scheme,
    Tiling,
    ZeroRule,
    any_scheme,
    per_channel,
    per_group,
    per_token,
)

FLOATS = [
    *(
        floats.FLOAT16,
        floats.BFLOAT16,
        floats.FLOAT8_E4M3FN,
        floats.FLOAT8_E4M3FNUZ,
        floats.FLOAT8_E4M3,
        floats.FLOAT8_E5M2,
    ),
    *(
        floats.FLOAT8_E5M2FNUZ,
        floats.FLOAT6_E2M3,
        floats.FLOAT6_E3M2,
        floats.FLOAT4_E2M1,
        FloatGrid(3, 4, Specials.NONE),
    ),
]
LOGS = [LogGrid(4), LogGrid(8, steps=16), LogGrid(5, signed=False), LogGrid(4, flush=False), LogGrid(4, zero=False)]
OTHERS: list[Grid] = [BinaryGrid(), TernaryGrid(), NF4, CodebookGrid((-2.5, 0.0, 1.0))]
INTS = [
    INT8,
    INT8_NARROW,
    UINT8,
    IntGrid(2),
    IntGrid(4),
    IntGrid(4, signed=False),
    INT16,
    IntGrid(24),
    INT32,
    IntGrid(31, False),
]
EVERY: list[Grid] = [*INTS, *FLOATS, *LOGS, *OTHERS]
TILINGS = [PER_TENSOR, per_channel(0), per_channel(1), per_token(2), per_group(2, 1, 4), Tiling(((0, 2), (1, 2)))]
X = hnp.arrays(np.float32, (4, 8), elements=st.floats(-1000, 1000, width=32))
few = settings(max_examples=25)  # of each of 35 grids
each = pytest.mark.parametrize("grid", EVERY, ids=str)


def schemes(grid: Grid) -> list[Scheme[Grid]]:
    """Every combination that the grid takes."""
    rules = [ZeroRule.NONE, ZeroRule.FREE] if isinstance(grid, IntGrid) else [ZeroRule.NONE]
    return [Scheme(grid, tiling, scale, zero) for tiling in TILINGS for scale in ScaleRule for zero in rules]


@each
def test_a_scheme_in_json_gives_the_same_back(grid: Grid) -> None:
    for scheme in schemes(grid):
        assert any_scheme(json.loads(json.dumps(scheme.to_json()))) == scheme
        x = np.linspace(-3, 5, 32, dtype=np.float32).reshape(4, 8)
        params = params_of(x, scheme)
        again = QParams.from_json(scheme, json.loads(json.dumps(params.to_json())))
        np.testing.assert_array_equal(quantize(x, again), quantize(x, params))
        np.testing.assert_array_equal(fake_quantize(x, again), fake_quantize(x, params))


@each
@few
@given(data=st.data(), x=X)
def test_codes_come_back_and_values_are_in_order(grid: Grid, data: st.DataObject, x: np.ndarray) -> None:
    params = params_of(x, data.draw(st.sampled_from(schemes(grid))))
    codes = quantize(x, params)
    assert (codes.shape, codes.dtype) == (x.shape, grid.dtype)
    values = dequantize(codes, params)
    assert (values.shape, values.dtype) == (x.shape, np.float32)
    if not (isinstance(grid, IntGrid) and grid.bits > 23):  # where float32 cannot tell codes apart
        again = dequantize(quantize(values, params), params)
        np.testing.assert_array_equal(again, values)
    if params.scale.size == 1:
        assert (np.diff(values.ravel()[np.argsort(x, axis=None)]) >= 0).all()


@each
@few
@given(data=st.data(), x=X)
def test_zero_is_exact(grid: Grid, data: st.DataObject, x: np.ndarray) -> None:
    has_zero = not isinstance(grid, BinaryGrid) and not (isinstance(grid, LogGrid) and not grid.zero)
    x[:, ::2] = 0
    params = params_of(x, data.draw(st.sampled_from(schemes(grid))))
    zeros = fake_quantize(x, params)[x == 0]
    assert (zeros == 0).all() if has_zero else (zeros > 0).all()


@pytest.mark.parametrize("grid", [g for g in INTS if g.bits <= 16], ids=str)
@few
@given(data=st.data(), x=X)
def test_an_integer_is_at_most_half_a_step_off(grid: IntGrid, data: st.DataObject, x: np.ndarray) -> None:
    scheme = data.draw(st.sampled_from(schemes(grid)))
    x = x if grid.signed or not scheme.symmetric else np.abs(x)
    params = params_of(x, scheme)
    step = spread(params.scale, x.shape).astype(np.float64)
    lost = 0.5 if scheme.symmetric else 1.0  # a rounded zero point costs an end of the range up to half a step more
    slack = 2.0**-22 * np.abs(x)  # the division and the product round in float32
    assert (np.abs(fake_quantize(x, params).astype(np.float64) - x) <= lost * step + slack).all()


@pytest.mark.parametrize("grid", [*FLOATS, NF4], ids=str)
@few
@given(data=st.data(), x=X)
def test_a_float_or_table_value_is_the_nearest_there_is(grid: FloatGrid, data: st.DataObject, x: np.ndarray) -> None:
    params = params_of(x, data.draw(st.sampled_from(schemes(grid))))
    scale = spread(params.scale, x.shape).astype(np.float64)
    codes = np.arange(len(NF4.values)) if grid is NF4 else np.arange(1 << grid.bits)
    table = grid.decode(codes.astype(grid.dtype)).astype(np.float64)
    table = np.unique(table[np.isfinite(table)])
    place = np.searchsorted(table, x / scale)
    near = np.minimum(
        np.abs(table[np.maximum(place - 1, 0)] * scale - x),
        np.abs(table[np.minimum(place, len(table) - 1)] * scale - x),
    )
    assert (np.abs(fake_quantize(x, params).astype(np.float64) - x) <= near + 2.0**-22 * np.abs(x) + 2.0**-149).all()


def spread(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Each element's scale, by a loop."""
    runs = [size // n for n, size in zip(scale.shape, shape, strict=True)]
    return np.array(
        [scale[tuple(i // run for i, run in zip(at, runs, strict=True))] for at in np.ndindex(shape)]
    ).reshape(shape)


@each
def test_what_is_too_large_saturates_and_nan_has_a_code(grid: Grid) -> None:
    params = params_of(np.array([-1.0, 0.25, 1.0], np.float32), Scheme(grid))
    with np.errstate(over="ignore"):
        values = fake_quantize(np.array([1e30, np.inf, -1e30, -np.inf, np.nan], np.float32), params)
    if isinstance(grid, FloatGrid) and grid.specials is Specials.IEEE and not grid.saturate:
        assert np.isinf(values[[1, 3]]).all()
        assert np.isinf(values[[0, 2]]).all() or grid.high > 1e30
    else:
        assert np.isfinite(values[:4]).all()
        assert values[0] == values[1] > 0
        assert values[2] == values[3] <= 0 or (isinstance(grid, LogGrid) and not grid.signed)
    if isinstance(grid, FloatGrid):
        assert np.isnan(values[4]) if grid.nan_code is not None else values[4] == 0
    elif isinstance(grid, IntGrid | LogGrid | BinaryGrid | TernaryGrid):
        assert values[4] == values[3]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_dequantize_takes_codes_of_every_integer_type(dtype: str) -> None:
    codes = np.arange(0 if dtype.startswith("u") else -128, 128, dtype=np.int64).astype(dtype)
    params = QParams(Scheme(INT8, zero_point=ZeroRule.FREE), np.array([0.3], np.float32), np.array([-7], np.int32))
    expected = (codes.astype(np.int64) + 7).astype(np.float32) * np.float32(0.3)
    np.testing.assert_array_equal(dequantize(codes, params), expected)


def test_dequantize_of_int32_codes_rounds_them_to_float32_once() -> None:
    codes = np.array([2**31 - 1, -(2**31), 2**24 + 1, 16777219, -33554435], np.int32)
    params = QParams(Scheme(INT32), np.array([2.0**-10], np.float32), np.zeros(1, np.int32))
    np.testing.assert_array_equal(dequantize(codes, params), codes.astype(np.float32) * np.float32(2.0**-10))


def test_the_tilings_by_name() -> None:
    assert per_token(3).scale_shape((2, 10, 512)) == (2, 10, 1)
    assert per_token(1).scale_shape((512,)) == (1,)
    assert per_group(2, -1, 32).scale_shape((8, 64)) == (8, 2)
    assert per_group(2, 0, 4).scale_shape((8, 64)) == (2, 64)
    assert per_group(4, 1, 16).scale_shape((8, 32, 3, 3)) == (8, 2, 3, 3)


def test_tokens_have_their_own_scale() -> None:
    x = np.array([[1.27, 0.5], [127.0, -3.0]], np.float32)
    params = params_of(x, Scheme(INT8, per_token(2)))
    assert params.scale.ravel().tolist() == [pytest.approx(0.01), 1.0]


@pytest.mark.parametrize("grid", [*FLOATS, *LOGS, *OTHERS], ids=str)
def test_only_integers_have_a_zero_point(grid: Grid) -> None:
    with pytest.raises(BadOption, match="codes have no zero point"):
        Scheme(grid, zero_point=ZeroRule.FREE)


def test_a_symmetric_grid_needs_a_code_above_zero() -> None:
    with pytest.raises(BadOption, match="a symmetric int1 has no code above zero; use BinaryGrid"):
        Scheme(IntGrid(1))
    assert params_of(np.array([-1.0, 0.5], np.float32), Scheme(IntGrid(1), zero_point=ZeroRule.FREE)).scale == 1.5


def test_a_zero_point_beyond_int32_is_refused_and_one_at_zero_is_not() -> None:
    scheme = Scheme(IntGrid(32, signed=False), zero_point=ZeroRule.FREE)
    assert params_for(0.0, 1.0, scheme, 1).zero_point.tolist() == [0]
    with pytest.raises(BadOption, match="A zero point of 4294967295 on uint32 does not fit in int32"):
        params_for(-1.0, 0.0, scheme, 1)


def test_a_plan_s_scheme_holds_integers_only() -> None:
    with pytest.raises(BadOption, match="integer codes were expected, found float8e4m3fn"):
        Scheme.from_json(Scheme(floats.FLOAT8_E4M3FN).to_json())
    with pytest.raises(BadOption, match="zero points"):
        QParams.from_json(Scheme(NF4), {"shape": [1], "scale": [1.0], "zero_point": [3]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "posit"}, "no grid of kind 'posit'. There are float, log"),
        ({"kind": "float", "exponent": 4}, "A grid is malformed"),
        ({"kind": "float", "exponent": 4, "mantissa": 3, "specials": "x"}, "A grid is malformed: 'x' is not a valid"),
        ({"bits": 8, "width": 3}, "A grid is malformed"),
        ({"kind": "codebook", "values": [1.0, 0.0]}, "strictly increasing"),
        ({"kind": "codebook", "values": ["x"]}, "A grid is malformed"),
    ],
)
def test_grids_that_are_malformed_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        grid_from_json(data)


@each
def test_a_grid_in_json_gives_the_same_back_and_integers_are_as_they_were(grid: Grid) -> None:
    data = json.loads(json.dumps(grid_to_json(grid)))
    assert grid_from_json(data) == grid
    if isinstance(grid, IntGrid):
        assert data == {"bits": grid.bits, "signed": grid.signed, "narrow": grid.narrow}


def test_ranges_of_other_grids_put_absmax_on_the_largest_value() -> None:
    for grid, largest in ((floats.FLOAT8_E4M3FN, 448), (floats.FLOAT4_E2M1, 6), (LogGrid(4), 1), (NF4, 1)):
        scale = params_for(-3.0, 2.0, Scheme(grid), 1).scale
        assert scale.tolist() == [float(np.float32(3 / largest))]
    with pytest.raises(BadCalibration, match="cannot be quantized"):
        params_for(0.0, np.inf, Scheme(floats.FLOAT16))


def test_floats_take_every_rounding_rule() -> None:
    params = QParams(Scheme(floats.FLOAT4_E2M1), np.ones(1, np.float32), np.zeros(1, np.int32))
    x = np.array([2.5, -2.5, 3.5], np.float32)
    got = {rule: fake_quantize(x, params, rule).tolist() for rule in Rounding}
    assert got[Rounding.HALF_EVEN] == [2.0, -2.0, 4.0]
    assert got[Rounding.HALF_UP] == [3.0, -2.0, 4.0]
    assert got[Rounding.HALF_AWAY] == [3.0, -3.0, 4.0]
    assert got[Rounding.FLOOR] == [2.0, -3.0, 3.0]
