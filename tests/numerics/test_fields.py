"""Promised: the fields of a code make its value; an exact decimal is rounded once; neighbours are the next values; the
documented ranges of the types hold; float32 are counted per code as a plain loop over all of them counts.
"""

from fractions import Fraction
from struct import pack, unpack

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics import floats
from halfeven.numerics.fields import TYPES, fields_of, float32_per_code, limits, nearest_code, neighbours
from halfeven.numerics.floats import FLOAT16, FLOAT32, FLOAT64, FloatGrid
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8
from halfeven.numerics.quantize import fake_quantize, params_for
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule, per_channel

GRIDS = [
    *(FLOAT64, FLOAT32, FLOAT16, floats.BFLOAT16, floats.FLOAT8_E4M3FN, floats.FLOAT8_E4M3FNUZ, floats.FLOAT8_E5M2),
    *(floats.FLOAT8_E8M0, floats.FLOAT6_E3M2, floats.FLOAT4_E2M1),
]
grids = pytest.mark.parametrize("grid", GRIDS, ids=str)


def test_the_fields_of_123_45_in_float32() -> None:
    code = unpack("<I", pack("<f", 123.45))[0]
    assert code == nearest_code(Fraction("123.45"), FLOAT32) == 0x42F6E666
    parts = fields_of(code, FLOAT32)
    assert (parts.sign, parts.exponent, parts.power, parts.hidden) == (0, 0b10000101, 6, 1)
    assert f"{parts.fraction:023b}" == "11101101110011001100110"
    assert parts.value == Fraction("123.4499969482421875")
    assert (FLOAT32.exponent, FLOAT32.mantissa, FLOAT32.exponent_bias) == (8, 23, 127)


@grids
@given(data=st.data())
def test_sign_significand_and_power_make_the_value(grid: FloatGrid, data: st.DataObject) -> None:
    code = data.draw(st.integers(0, (1 << grid.bits) - 1))
    parts = fields_of(code, grid)
    value = float(grid.decode(np.array([code], grid.dtype))[0])
    if parts.value is None:
        assert (parts.kind == "nan") == np.isnan(value)
        assert parts.kind == "nan" or np.isinf(value)
    else:
        assert parts.value == (-1) ** parts.sign * parts.significand * Fraction(2) ** parts.power == Fraction(value)
        assert parts.significand == parts.hidden + Fraction(parts.fraction, 2**grid.mantissa)
        assert 1 <= parts.significand < 2 if parts.kind == "normal" else 0 <= parts.significand < 1
        back = (((parts.sign << grid.exponent) | parts.exponent) << grid.mantissa) | parts.fraction
        assert back == code


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float64_is_rounded_to_float32_and_float16_as_numpy_does(value: float) -> None:
    with np.errstate(over="ignore"):
        assert nearest_code(Fraction(value), FLOAT32) & 0x7FFFFFFF == np.float32(value).view(np.uint32) & 0x7FFFFFFF
        assert nearest_code(Fraction(value), FLOAT16) & 0x7FFF == np.float16(value).view(np.uint16) & 0x7FFF


@given(text=st.decimals(allow_nan=False, allow_infinity=False, places=30, min_value=-1000, max_value=1000))
def test_a_decimal_is_rounded_to_float64_as_python_reads_it(text: object) -> None:
    assert (
        nearest_code(Fraction(str(text)), FLOAT64) & (2**63 - 1) == unpack("<Q", pack("<d", abs(float(str(text)))))[0]
    )


def test_a_decimal_is_rounded_once_not_through_float64_or_float32() -> None:
    above_a_tie = Fraction(1) + Fraction(1, 2**11) + Fraction(1, 2**60)  # a tie of float16 once it is a float64
    assert FLOAT16.decode(np.array([nearest_code(above_a_tie, FLOAT16)]))[0] == 1 + 2.0**-10
    assert np.float16(float(above_a_tie)) == 1.0


def test_too_large_is_infinity_and_far_too_small_is_a_signed_zero() -> None:
    assert nearest_code(Fraction(10) ** 400, FLOAT64) == 0x7FF0000000000000
    assert nearest_code(-(Fraction(10) ** 400), FLOAT32) == 0xFF800000
    assert nearest_code(Fraction(10) ** -400, FLOAT64) == 0
    assert nearest_code(-(Fraction(10) ** -400), FLOAT16) == 0x8000
    assert nearest_code(Fraction(0), FLOAT16) == 0


@grids
@given(data=st.data())
def test_neighbours_are_the_next_values(grid: FloatGrid, data: st.DataObject) -> None:
    code = data.draw(st.integers(0, (1 << grid.bits) - 1))
    value = float(grid.decode(np.array([code], grid.dtype))[0])
    below, above = (
        None if one is None else float(grid.decode(np.array([one], grid.dtype))[0]) for one in neighbours(code, grid)
    )
    if np.isnan(value):
        assert (below, above) == (None, None)
        return
    peer = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
    name = next((n for n, g in TYPES.items() if g is grid and n in peer), None)
    if name and np.isfinite(value):
        kind = peer[name]
        with np.errstate(all="ignore"):
            assert below == float(np.nextafter(kind(value), kind(-np.inf)))
            assert above == float(np.nextafter(kind(value), kind(np.inf)))
    assert below is None or below < value
    assert above is None or above > value


def test_the_documented_ranges_of_types() -> None:
    assert limits(FLOAT32)[1] == (2 - Fraction(1, 2**23)) * 2**127  # not (2 - 2**23) * 2**127
    assert limits(FLOAT32)[0] == -limits(FLOAT32)[1]
    assert float(limits(FLOAT32)[1]) == float(np.finfo(np.float32).max) == pytest.approx(3.4e38, rel=1e-2)
    assert limits(INT8) == (-128, 127)  # not 128
    assert limits(UINT8) == (0, 255)
    for name, grid in TYPES.items():
        info = np.iinfo(name) if "int" in name else ml_dtypes.finfo(name)
        assert [float(end) for end in limits(grid)] == [float(info.min), float(info.max)]
    assert limits(floats.FLOAT8_E8M0) == (Fraction(1, 2**127), 2**127)


def test_half_of_all_float32_lie_in_minus_one_to_one_and_most_of_them_share_the_code_of_zero() -> None:
    params = params_for(-1.0, 1.0, Scheme(UINT8, zero_point=ZeroRule.FREE), 1)
    values, counts = float32_per_code(params, -1.0, 1.0)
    assert counts.sum() == 2 * 0x3F800000 + 2  # both zeros among them
    assert counts.sum() / 2**32 == pytest.approx(0.5, rel=0.01)
    assert len(values) == 255  # of 256: -1 / scale is -127.49999, so the lowest code is never reached
    assert counts[values == 0] / counts.sum() > 0.93
    assert counts[-2] == pytest.approx(2 / 255 * 2**24, abs=1)  # a step next to 1, where float32 are 2**-24 apart
    assert (np.diff(counts[values > 0][:-1]) <= 2**23).all()
    assert counts[values > 0][0] > 50 * counts[values > 0][-2]


@pytest.mark.parametrize("grid", [INT8, INT8_NARROW, floats.FLOAT8_E4M3FN, floats.FLOAT4_E2M1], ids=str)
def test_float32_are_counted_as_a_loop_over_all_of_them_counts(grid: FloatGrid) -> None:
    params = params_for(-1.0, 1.0, Scheme(grid), 1)
    low, high = np.float32(0.43), np.float32(0.45)
    bits = np.arange(low.view(np.uint32), high.view(np.uint32) + 1, dtype=np.uint32)
    expected = np.unique(fake_quantize(bits.view(np.float32), params), return_counts=True)
    values, counts = float32_per_code(params, float(low), float(high))
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(counts, expected[1])


def test_the_interval_may_be_one_number_and_the_two_zeros_are_two() -> None:
    params = params_for(-1.0, 1.0, Scheme(INT8), 1)
    assert float32_per_code(params, -0.0, 0.0)[1].tolist() == [2]
    assert float32_per_code(params, 0.5, 0.5)[1].tolist() == [1]


def test_what_cannot_be_counted_or_read_is_refused() -> None:
    channels = QParams(Scheme(INT8, per_channel(0)), np.ones(2, np.float32), np.zeros(2, np.int32))
    with pytest.raises(BadOption, match="per-tensor parameters and a finite interval"):
        float32_per_code(channels, -1, 1)
    with pytest.raises(BadOption, match="per-tensor parameters and a finite interval"):
        float32_per_code(params_for(-1.0, 1.0, Scheme(INT8)), 1, -1)
    with pytest.raises(BadOption, match="0x100 does not fit in the 8 bits of float8e4m3fn"):
        fields_of(0x100, floats.FLOAT8_E4M3FN)
