"""The primitives equal their definitions in Python's integers and fractions, and the C of the libraries they are from.

The oracles are scalar code written from the sources: C's truncating division, masks and all.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import (
    SHIFT_RULES,
    high_multiply,
    multiply_high_scaled,
    rounding_shift,
    saturate,
    shift_left,
    wrap,
)

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


half = Fraction(1, 2)
ROUND: dict[Rounding, Callable[[Fraction], int]] = {
    Rounding.HALF_EVEN: round,
    Rounding.HALF_UP: lambda x: math.floor(x + half),
    Rounding.HALF_DOWN: lambda x: math.ceil(x - half),
    Rounding.HALF_AWAY: lambda x: math.floor(x + half) if x >= 0 else math.ceil(x - half),
    Rounding.HALF_ZERO: lambda x: math.ceil(x - half) if x >= 0 else math.floor(x + half),
    Rounding.HALF_DPU5: lambda x: round(x) if x >= 0 else math.floor(x + half),
    Rounding.FLOOR: math.floor,
    Rounding.CEIL: math.ceil,
    Rounding.TRUNC: math.trunc,
}


def c_srdhm(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul, with C's division."""
    if a == b == INT_MIN:
        return INT_MAX
    nudged = a * b + ((1 << 30) if a * b >= 0 else 1 - (1 << 30))
    return math.trunc(Fraction(nudged, 1 << 31))


def c_rdbpot(x: int, n: int) -> int:
    """gemmlowp's RoundingDivideByPOT."""
    mask = (1 << n) - 1
    return (x >> n) + ((x & mask) > (mask >> 1) + (x < 0))


def c_vrshl(x: int, n: int) -> int:
    return (x + (1 << n >> 1)) >> n


def c_int32(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


@pytest.mark.parametrize("rule", SHIFT_RULES)
def test_a_shift_rounds_as_fractions_do(rule: Rounding) -> None:
    x = np.arange(-70, 71)
    for n in range(7):
        assert rounding_shift(x, n, rule).tolist() == [ROUND[rule](Fraction(int(v), 1 << n)) for v in x]


@pytest.mark.parametrize("rule", SHIFT_RULES)
@given(x=st.integers(-(2**62), 2**62 - 1), n=st.integers(0, 62))
def test_a_shift_is_exact_up_to_62_bits(rule: Rounding, x: int, n: int) -> None:
    assert rounding_shift(ints(x), n, rule).tolist() == [ROUND[rule](Fraction(x, 1 << n))]


def test_a_shift_and_the_same_rule_on_floats_are_one() -> None:
    x = np.arange(-300, 300)
    for rule in SHIFT_RULES:
        np.testing.assert_array_equal(rounding_shift(x, 4, rule), rule(x / 16.0))


@given(x=st.integers(INT_MIN, INT_MAX), n=st.integers(0, 31))
def test_gemmlowp_s_division_is_half_away_and_neon_s_shift_is_half_up(x: int, n: int) -> None:
    assert rounding_shift(ints(x), n, Rounding.HALF_AWAY).tolist() == [c_rdbpot(x, n)]
    assert rounding_shift(ints(x), n, Rounding.HALF_UP).tolist() == [c_vrshl(x, n)]


def test_they_differ_at_negative_ties_alone() -> None:
    x = np.arange(-1000, 1000)
    differ = rounding_shift(x, 3, Rounding.HALF_AWAY) != rounding_shift(x, 3, Rounding.HALF_UP)
    np.testing.assert_array_equal(differ, (x < 0) & (x % 8 == 4))


@given(a=st.integers(INT_MIN, INT_MAX), b=st.integers(INT_MIN, INT_MAX))
def test_gemmlowp_s_nudged_division_is_the_arm_instruction(a: int, b: int) -> None:
    assert high_multiply(ints(a), ints(b)).tolist() == [c_srdhm(a, b)]


def test_negative_exact_ties_of_the_high_multiply_go_up() -> None:
    a = ints(*range(-9, 10, 2))
    assert high_multiply(a, ints(1 << 30)).tolist() == [(v + 1) // 2 for v in range(-9, 10, 2)]
    assert [c_srdhm(int(v), 1 << 30) for v in a] == [(v + 1) // 2 for v in range(-9, 10, 2)]


def test_only_the_least_squared_saturates() -> None:
    edges = [INT_MIN, INT_MIN + 1, -1, 0, 1, INT_MAX]
    for a, b in product(edges, edges):
        assert high_multiply(ints(a), ints(b)).tolist() == [c_srdhm(a, b)]
    assert high_multiply(ints(INT_MIN), ints(INT_MIN)).tolist() == [INT_MAX]
    assert high_multiply(ints(-32768), ints(-32768), 16).tolist() == [32767]


def test_pmulhrsw_wraps_where_neon_saturates_and_is_the_same_elsewhere() -> None:
    a = np.arange(-(2**15), 2**15)
    for b in (-32768, -32767, -1, 0, 1, 2, 16384, 32767):
        instruction = ((((a * b) >> 14) + 1) >> 1).astype(np.int16)
        np.testing.assert_array_equal(multiply_high_scaled(a, ints(b)), instruction)
        both_least = (a == -32768) & (b == -32768)
        np.testing.assert_array_equal(multiply_high_scaled(a, ints(b)) != high_multiply(a, ints(b), 16), both_least)


@given(x=st.integers(-(2**63), 2**63 - 1), bits=st.integers(2, 62))
def test_wrapping_and_saturating(x: int, bits: int) -> None:
    size = 1 << bits
    assert wrap(ints(x), bits).tolist() == [(x + size // 2) % size - size // 2]
    assert saturate(ints(x), bits).tolist() == [max(-size // 2, min(size // 2 - 1, x))]


@given(x=st.integers(INT_MIN, INT_MAX), n=st.integers(0, 31))
def test_a_left_shift_wraps_to_32_bits(x: int, n: int) -> None:
    assert shift_left(ints(x), n).tolist() == [c_int32(x << n)]


def test_impossible_shifts_are_refused() -> None:
    with pytest.raises(BadOption, match="right shift of"):
        rounding_shift(ints(1), 63)
    with pytest.raises(BadOption, match="right shift of"):
        rounding_shift(ints(1), -1)
    with pytest.raises(BadOption, match="no rule to shift by"):
        rounding_shift(ints(1), 1, Rounding.SUM_UP)
