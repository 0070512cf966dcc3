"""A real multiplier becomes the integer and shift that each library makes of it: carries, flushes and limits included.

The oracles are scalar code written from the sources.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics import multiplier
from halfeven.numerics.multiplier import (
    float_free_multiplier,
    float_multiplier,
    int16x8_multiplier,
    litert_multiplier,
    paper_multiplier,
    q8_8_multiplier,
    qnnpack_multiplier,
    real_multiplier,
    rndnu16_multiplier,
    rndnu_multiplier,
    shift_multiplier,
)
from halfeven.numerics.requant import Requant, requantize

INT_MAX = (1 << 31) - 1


def c_litert(m: float) -> tuple[int, int]:
    fraction, e = math.frexp(m)
    q = math.floor(Fraction(fraction) * 2**31 + Fraction(1, 2))
    if q == 1 << 31:
        q, e = q >> 1, e + 1
    return (0, 0) if e < -31 else (q, e)


REALS = st.floats(2.0**-40, 2.0**29) | st.integers(-40, 29).map(lambda e: math.ldexp(1.0, e))


@given(m=REALS)
def test_litert_s_multiplier(m: float) -> None:
    q, e = c_litert(m)
    found = litert_multiplier(m)
    assert (int(found.mantissa), 31 - int(found.shift)) == (q, e)


@given(m=st.floats(2.0**-31, 2.0**29))
def test_litert_s_multiplier_is_within_half_a_unit(m: float) -> None:
    assert abs(float(litert_multiplier(m).real) - m) <= m * 2.0**-31


def test_just_below_a_power_of_two_carries() -> None:
    found = litert_multiplier(1 - 2.0**-40)
    assert (int(found.mantissa), 31 - int(found.shift)) == (1 << 30, 1)
    assert int(litert_multiplier(1 - 2.0**-31).mantissa) == INT_MAX


def test_tiny_multipliers_flush_to_zero() -> None:
    assert int(litert_multiplier(2.0**-32).mantissa) == 1 << 30
    below = litert_multiplier(2.0**-32 - 2.0**-52)
    assert (int(below.mantissa), int(below.shift)) == (0, 31)
    assert requantize(np.array([INT_MAX]), 2.0**-33, 5, -128, 127, Requant.DOUBLE_ROUNDING).tolist() == [5]


def test_a_single_rounding_build_limits_the_shift() -> None:
    found = litert_multiplier(2.0**31, single_rounding=True)
    assert (int(found.mantissa), 31 - int(found.shift)) == (INT_MAX, 30)
    assert 31 - int(litert_multiplier(2.0**31).shift) == 32


@given(m=st.floats(2.0**-31, 2.0**29))
def test_a_float_free_build_reads_the_bits(m: float) -> None:
    u = int(np.float64(m).view(np.uint64))
    q = 0x40000000 + ((u & 0x000FFFFFFFC00000) >> 22) + ((u & 0x3FFFFF) > 0x200000)
    e = ((u >> 52) & 0x7FF) - 1022
    if q == 1 << 31:
        q, e = q >> 1, e + 1
    found = float_free_multiplier(m)
    assert (int(found.mantissa), 31 - int(found.shift)) == ((0, 0) if e < -31 else (q, e))


def test_a_float_free_build_differs_on_ties_alone() -> None:
    tie = 0.5 + 2.0**-32
    assert int(litert_multiplier(tie).mantissa) - int(float_free_multiplier(tie).mantissa) == 1
    beyond = tie + 2.0**-50
    assert int(litert_multiplier(beyond).mantissa) == int(float_free_multiplier(beyond).mantissa)


@given(m=st.floats(2.0**-31, 1 - 2.0**-31, exclude_max=True))
def test_the_paper_s_form_is_a_fraction_of_at_least_a_half_and_a_right_shift(m: float) -> None:
    """M = 2**-n M0: R054."""
    found = paper_multiplier(m)
    m0, n = Fraction(int(found.mantissa), 1 << 31), int(found.shift) - 31
    assert Fraction(1, 2) <= m0 < 1
    assert n >= 0
    assert abs(m0 / 2**n - Fraction(m)) <= Fraction(m) / 2**31


def test_the_paper_s_form_refuses_what_is_not_between_0_and_1() -> None:
    for m in (1.0, 2.0, 1 - 2.0**-40):
        with pytest.raises(BadOption, match="needs it in"):
            paper_multiplier(m)


@given(m=st.floats(2.0**-31, 100))
def test_the_16_by_8_multiplier_keeps_15_bits(m: float) -> None:
    q, e = c_litert(m)
    found = int16x8_multiplier(m)
    assert (int(found.mantissa), int(found.shift)) == (min((q + (1 << 15)) >> 16, 0x7FFF), 15 - e)


@given(m=st.floats(2.0**-32, 1, exclude_max=True, width=32))
def test_xnnpack_s_and_qnnpack_s_multipliers_are_exact(m: float) -> None:
    assert float(rndnu_multiplier(m).real) == float(qnnpack_multiplier(m).real) == m
    assert 1 << 30 <= int(qnnpack_multiplier(m).mantissa) <= 0x7FFFFF80
    assert 16 <= int(rndnu_multiplier(m).shift) <= 55


def test_multipliers_beyond_a_library_s_range_are_refused() -> None:
    for make, m in [(qnnpack_multiplier, 1.0), (rndnu_multiplier, 256.0), (rndnu_multiplier, 2.0**-33)]:
        with pytest.raises(BadOption, match="NNPACK needs"):
            make(m)
    with pytest.raises(BadOption, match=r"8\.8 fixed point"):
        q8_8_multiplier(130.0)
    for m in (0.0, -1.0, math.inf, math.nan, 1e39):
        with pytest.raises(BadOption, match="positive and finite"):
            litert_multiplier(m)


def test_a_shift_takes_powers_of_two_alone() -> None:
    assert shift_multiplier([1.0, 0.25, 8.0]).shift.tolist() == [0, 2, -3]
    with pytest.raises(BadOption, match="needs powers of two"):
        shift_multiplier([0.5, 0.3])
    with pytest.raises(BadOption, match="a shift needs"):
        shift_multiplier(2.0**-63)


def test_the_multiplier_of_scales_in_each_precision() -> None:
    """Multiplier = sx * sy / sz, known offline: R050."""
    sx, sw, sy = np.float32(0.1), np.float32(0.007), np.float32(0.3)
    exact = Fraction(float(sx)) * Fraction(float(sw)) / Fraction(float(sy))
    assert abs(Fraction(float(real_multiplier(sx, sw, sy))) / exact - 1) < Fraction(1, 2**51)
    assert float(float_multiplier(sx, sw, sy)) == float(sx * sw / sy)
    assert float(float_multiplier(sx, sw, sy)) != float(real_multiplier(sx, sw, sy))


def test_xnnpack_s_16_bit_multiplier_rounds_up_and_is_limited() -> None:
    assert int(rndnu16_multiplier(0.5).mantissa) == 1 << 14
    assert int(rndnu16_multiplier(0.5 + 2.0**-16).mantissa) == (1 << 14) + 1
    assert int(rndnu16_multiplier(1 - 2.0**-24).mantissa) == 32767


def test_every_documented_multiplier_exists() -> None:
    assert multiplier.__doc__ is not None
    names = [line.split()[0] for line in multiplier.__doc__.splitlines() if line.startswith("    ") and "_mul" in line]
    assert len(names) == 9
    assert all(callable(getattr(multiplier, name)) for name in names)
