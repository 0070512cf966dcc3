"""Rounding: the table in the module's docstring holds; `decimal` and `fractions` agree, on ties, next to them, and where
float32 has no fractions left; the file of vectors that other languages read is right; stochastic rounding is unbiased.
"""

import json
import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.numerics import rounding
from halfeven.numerics.rounding import Rounding, stochastic

GOLDEN = Path(__file__).parents[1] / "golden" / "ties.json"
HALF = Fraction(1, 2)
SUMS = [rule for rule in Rounding if rule.startswith("sum")]
EXACT = [rule for rule in Rounding if rule not in SUMS]
NEAREST = [rule for rule in EXACT if rule.startswith("half")]
DTYPES = [np.float16, np.float32, np.float64]

# `decimal` calls half_away "half up" and half_zero "half down"; it lacks our half_up, half_down and half_dpu5.
DECIMAL = {
    Rounding.HALF_EVEN: ROUND_HALF_EVEN,
    Rounding.HALF_AWAY: ROUND_HALF_UP,
    Rounding.HALF_ZERO: ROUND_HALF_DOWN,
    Rounding.FLOOR: ROUND_FLOOR,
    Rounding.CEIL: ROUND_CEILING,
    Rounding.TRUNC: ROUND_DOWN,
}

# Each rule on an exact number, as the module's last column states it.
ORACLE: dict[Rounding, Callable[[Fraction], int]] = {
    Rounding.HALF_EVEN: round,
    Rounding.HALF_UP: lambda x: math.floor(x + HALF),
    Rounding.HALF_DOWN: lambda x: math.ceil(x - HALF),
    Rounding.HALF_AWAY: lambda x: (1 if x > 0 else -1) * math.floor(abs(x) + HALF),
    Rounding.HALF_ZERO: lambda x: (1 if x > 0 else -1) * math.ceil(abs(x) - HALF),
    Rounding.HALF_DPU5: lambda x: math.floor(x + HALF) if x < 0 else round(x),
    Rounding.FLOOR: math.floor,
    Rounding.CEIL: math.ceil,
    Rounding.TRUNC: math.trunc,
}


def oracle(rule: Rounding, x: np.floating) -> float:
    """What `rule` gives for `x`; the sums of the `sum_` rules are computed exactly and then rounded to x's dtype."""
    if not np.isfinite(x):
        return float(x)
    value = Fraction(float(x))
    if rule in EXACT:
        return float(ORACLE[rule](value))
    sign = -1 if rule in (Rounding.SUM_AWAY, Rounding.SUM_ZERO) and value < 0 else 1
    added = HALF if rule in (Rounding.SUM_UP, Rounding.SUM_AWAY) else -HALF
    total = nearest(sign * value + added, type(x))
    return float(sign * (math.floor(total) if added > 0 else math.ceil(total)))


def nearest(exact: Fraction, dtype: type[np.floating]) -> Fraction:
    """The number of `dtype` nearest to `exact`, ties to even significands; nothing here over- or underflows."""
    if exact == 0:
        return exact
    exponent = math.frexp(float(exact))[1] - np.finfo(dtype).nmant - 1
    step = Fraction(2) ** max(exponent, int(np.log2(np.finfo(dtype).smallest_subnormal)))
    return round(exact / step) * step


def documented_table() -> list[tuple[Rounding, float, float]]:
    assert rounding.__doc__ is not None
    head, *rows = [line.split() for line in rounding.__doc__.splitlines() if line.startswith("    ")]
    rows = [row for row in rows if row[0] in list(Rounding)]
    return [
        (Rounding(row[0]), float(x), float(cell))
        for row in rows
        for x, cell in zip(head[1:7], row[1:7], strict=True)
    ]  # fmt: skip


def test_the_documented_table_has_every_rule_and_six_ties() -> None:
    assert len(documented_table()) == 6 * len(Rounding)


@pytest.mark.parametrize(("rule", "x", "expected"), documented_table())
def test_documented_ties(rule: Rounding, x: float, expected: float) -> None:
    assert rule(np.array(x, np.float32)) == expected


NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6).map(lambda n: n / 2)


@pytest.mark.parametrize("rule", DECIMAL)
@given(x=NUMBERS)
def test_decimal_agrees(rule: Rounding, x: float) -> None:
    assert rule(np.array(x)) == float(Decimal(x).quantize(Decimal(1), DECIMAL[rule]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", Rounding)
def test_fractions_agree_at_every_place_where_a_float_runs_out_of_fraction(rule: Rounding, dtype: type) -> None:
    """The neighbours of each half and of each power of two, up to where the dtype has no odd numbers any more."""
    top = np.finfo(dtype).nmant + 2
    middle = np.array([*(2.0**k for k in range(-10, top)), *(k + 0.5 for k in range(12))], dtype)
    odd = np.array([2.0 ** (top - 2) + k for k in (1, 2, 3, 5)], dtype)
    positive = np.concatenate([middle, odd, np.nextafter(middle, dtype(np.inf)), np.nextafter(middle, dtype(0))])
    x = np.concatenate([positive, -positive])
    rounded = rule(x)
    assert rounded.dtype == dtype
    assert rounded.tolist() == [oracle(rule, one) for one in x]


@pytest.mark.parametrize("rule", Rounding)
@given(x=hnp.arrays(np.float32, 30, elements=st.floats(width=32, allow_nan=False)))
def test_fractions_agree_on_any_float32(rule: Rounding, x: np.ndarray) -> None:
    assert rule(x).tolist() == [oracle(rule, one) for one in x]


def test_every_float16_rounds_as_its_double_does() -> None:
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    for rule in EXACT:
        np.testing.assert_array_equal(rule(x).astype(np.float64), rule(x.astype(np.float64)))


@pytest.mark.parametrize("rule", NEAREST)
def test_just_below_a_tie_is_not_a_tie(rule: Rounding) -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert rule(np.array([below, -below])).tolist() == [0.0, 0.0]


def test_adding_a_half_in_float32_is_a_trap_and_the_sum_rules_fall_into_it() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = np.array([below, -below, 2**23 + 1, -(2**23) - 1], np.float32)
    assert Rounding.SUM_UP(x).tolist() == [1, 0, 2**23 + 2, -(2**23)]
    assert Rounding.SUM_DOWN(x).tolist() == [0, -1, 2**23, -(2**23) - 2]
    assert Rounding.SUM_AWAY(x).tolist() == [1, -1, 2**23 + 2, -(2**23) - 2]
    assert Rounding.SUM_ZERO(x).tolist() == [0, 0, 2**23, -(2**23)]


@pytest.mark.parametrize("rule", SUMS)
def test_between_the_traps_a_sum_rule_is_the_half_rule_of_its_name(rule: Rounding) -> None:
    exact = Rounding(rule.replace("sum", "half"))
    bits = np.random.default_rng(5).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    ties = np.arange(-5000, 5000, dtype=np.float32) / 2
    x = np.concatenate([bits[np.isfinite(bits)], ties])
    differs = rule(x) != exact(x)
    trap = (np.abs(x) == np.float32(0.49999997)) | ((np.abs(x) > 2**23) & (np.abs(x) < 2**24))
    assert not (differs & ~trap).any()


@pytest.mark.parametrize("rule", EXACT)
@given(whole=st.integers(-(2**31), 2**31))
def test_whole_numbers_stay(rule: Rounding, whole: int) -> None:
    x = np.array(whole, np.float32)
    assert rule(x) == x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", Rounding)
def test_nan_and_infinities_pass_and_the_dtype_stays(rule: Rounding, dtype: type) -> None:
    x = np.array([np.nan, np.inf, -np.inf], dtype)
    rounded = rule(x)
    np.testing.assert_array_equal(rounded, x)
    assert rounded.dtype == dtype


@pytest.mark.parametrize("rule", EXACT)
def test_a_zero_keeps_the_sign_of_what_was_rounded(rule: Rounding) -> None:
    x = np.array([0.0, -0.0, 0.2, -0.2, 0.5, -0.5, 1e-45, -1e-45], np.float32)
    rounded = rule(x)
    zero = rounded == 0
    assert zero[:2].all()
    np.testing.assert_array_equal(np.signbit(rounded[zero]), np.signbit(x[zero]))


@pytest.mark.parametrize("rule", Rounding)
def test_the_vectors_for_other_languages_are_right_and_numpy_gives_them(rule: Rounding) -> None:
    pairs = json.loads(GOLDEN.read_text("utf-8"))["rules"][str(rule)]
    bits = np.array([[int(word, 16) for word in pair] for pair in pairs], np.uint32).view(np.float32)
    x, y = bits[:, 0], bits[:, 1]
    assert len(x) >= 200
    np.testing.assert_array_equal(y, [oracle(rule, one) for one in x])
    ours = rule(x)
    np.testing.assert_array_equal(ours, y)
    numbers = ~np.isnan(y)
    np.testing.assert_array_equal(np.signbit(ours[numbers]), np.signbit(y[numbers]))


def test_the_vector_of_the_journey_6_article_gives_its_bits_and_codes() -> None:
    """Printed there as [-2. -2. -0. 0. 2. 2.], for NumPy, PyTorch and C++."""
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    rounded = Rounding.HALF_EVEN(x)
    assert rounded.view(np.uint32).tolist() == [0xC0000000, 0xC0000000, 0x80000000, 0, 0x40000000, 0x40000000]
    assert np.clip(rounded, -128, 127).astype(np.int8).tolist() == [-2, -2, 0, 0, 2, 2]
    assert Rounding.SUM_UP(x).tolist() == [-2, -1, 0, 1, 2, 3]  # the same toolchain before OE 3.0.31


EVEN = [(1.5, 2), (2.5, 2), (0.5, 0), (-0.5, 0), (1.1, 1), (1.2, 1), (1.3, 1), (-1.1, -1), (-1.2, -1), (-1.3, -1)]
OTHERS = [
    *((Rounding.HALF_UP, x, y) for x, y in ((1.5, 2), (2.5, 3), (0.5, 1), (-0.5, 0))),
    *((Rounding.HALF_DOWN, x, y) for x, y in ((1.5, 1), (2.5, 2), (0.5, 0), (-0.5, -1))),
    *((Rounding.HALF_ZERO, x, y) for x, y in ((1.5, 1), (2.5, 2), (-0.5, 0))),
]
SLIDES = [*((Rounding.HALF_EVEN, x, y) for x, y in EVEN), *OTHERS, *OTHERS]  # the slides show the second page twice


@pytest.mark.parametrize(("rule", "x", "expected"), SLIDES)
def test_the_assertions_of_ppq_s_slides_hold(rule: Rounding, x: float, expected: int) -> None:
    """X8: half towards zero of -0.5 is 0, as the slide asserts and as PPQ itself does not give."""
    assert int(rule(np.array(x))) == expected


def test_the_slides_make_32_assertions_of_which_21_differ() -> None:
    assert (len(SLIDES), len(set(SLIDES))) == (32, 21)


def test_down_means_to_minus_infinity_and_not_to_zero() -> None:
    """X9: HALF_DOWN(-0.5) is -1 where HALF_TOWARDS_ZERO(-0.5) is 0."""
    x = np.array(-0.5)
    assert (int(Rounding.HALF_DOWN(x)), int(Rounding.HALF_ZERO(x))) == (-1, 0)


def test_nearest_int_is_another_name_of_half_away() -> None:
    assert Rounding.NEAREST_INT is Rounding.HALF_AWAY


@given(x=hnp.arrays(np.float32, 50, elements=st.floats(-1e6, 1e6, width=32)), seed=st.integers(0, 99))
def test_stochastic_rounding_gives_a_neighbour_and_a_seed_fixes_it(x: np.ndarray, seed: int) -> None:
    rounded = stochastic(x, np.random.default_rng(seed))
    assert ((rounded == np.floor(x)) | (rounded == np.ceil(x))).all()
    assert rounded.dtype == x.dtype
    again = stochastic(x, np.random.default_rng(seed))
    np.testing.assert_array_equal(rounded.view(np.uint32), again.view(np.uint32))


@pytest.mark.parametrize("value", [0.3, -0.3, 2.5, -1.75, 100.0625, 1e-3])
def test_stochastic_rounding_is_unbiased(value: float) -> None:
    """The mean of n draws is within 5 standard deviations, sqrt(p (1 - p) / n), of the value."""
    x = np.full(200_000, value, np.float32)
    p = float(x[0]) % 1.0
    mean = stochastic(x, np.random.default_rng(11)).astype(np.float64).mean()
    assert abs(mean - float(x[0])) < 5 * math.sqrt(p * (1 - p) / x.size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_rounding_leaves_what_has_no_fraction(dtype: type) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3, -3, 2.0 ** np.finfo(dtype).nmant + 1], dtype)
    for seed in range(20):
        rounded = stochastic(x, np.random.default_rng(seed))
        np.testing.assert_array_equal(rounded, x)
        np.testing.assert_array_equal(np.signbit(rounded[1:]), np.signbit(x[1:]))
        assert rounded.dtype == dtype
