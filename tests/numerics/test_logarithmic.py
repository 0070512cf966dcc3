"""Shifts, exponent sums and tables give what the float product of the dequantized operands gives, bit for bit where
that is exact, and within the documented bound where it is not."""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.logarithmic import (
    LogCodes,
    log_add,
    log_matmul,
    log_matmul_by_table,
    of_grid,
    shift_matmul,
    tables,
)
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.requant import Requant, requantize


def drawn(rng: np.random.Generator, shape: tuple[int, int], low: int, high: int, steps: int = 1) -> LogCodes:
    return LogCodes(rng.integers(-1, 2, shape), rng.integers(low, high + 1, shape), steps)


@given(seed=st.integers(0, 10**6), depth=st.integers(0, 70), low=st.integers(-30, 5), width=st.integers(0, 18))
def test_the_sum_of_powers_of_two_is_the_float_product_bit_for_bit(seed: int, depth: int, low: int, width: int) -> None:
    """R022: products are sums of exponents. Spread of 36 + 1 + 7 bits: within 53, so float64 is exact."""
    rng = np.random.default_rng(seed)
    a, b = drawn(rng, (3, depth), low, low + width), drawn(rng, (depth, 4), -width, 0)
    found = log_matmul(a, b)
    assert found.values.tobytes() == (a.values @ b.values + 0.0).tobytes()
    exact = [[sum((Fraction(float(x)) * Fraction(float(y)) for x, y in zip(row, col, strict=True)), Fraction(0))
              for col in b.values.T] for row in a.values]  # fmt: skip
    assert [[Fraction(int(m)) * Fraction(2) ** found.exponent for m in row] for row in found.mantissa] == exact


def test_codes_of_the_log_grid_multiply() -> None:
    grid, rng = LogGrid(4), np.random.default_rng(0)
    x, w = rng.normal(0, 1, (5, 40)).astype(np.float32), rng.normal(0, 1, (40, 6)).astype(np.float32)
    codes = [grid.encode(part / np.abs(part).max()) for part in (x, w)]
    fake = [grid.decode(part).astype(np.float64) for part in codes]
    found = log_matmul(of_grid(codes[0], grid), of_grid(codes[1], grid))
    np.testing.assert_array_equal(found.values, fake[0] @ fake[1])


@pytest.mark.parametrize("steps", [2, 3, 4, 8])
def test_finer_steps_take_a_table_and_err_by_its_half_unit(steps: int) -> None:
    rng = np.random.default_rng(steps)
    a, b = drawn(rng, (4, 30), -15, 0, steps), drawn(rng, (30, 5), -15, 0, steps)
    for bits in (8, 15, 24):
        found = log_matmul(a, b, bits)
        size = np.abs(a.values) @ np.abs(b.values)
        assert (np.abs(found.values - a.values @ b.values) <= size * (2.0 ** -(bits + 1) + 1e-15)).all()
    assert not np.array_equal(log_matmul(a, b, 8).values, log_matmul(a, b, 24).values)


@given(seed=st.integers(0, 10**6), depth=st.integers(0, 40), zero_point=st.integers(-128, 127))
def test_shifts_are_the_float_product_bit_for_bit(seed: int, depth: int, zero_point: int) -> None:
    """R024: integer codes times powers of two. 9 + 16 + 1 + 6 bits: float64 is exact."""
    rng = np.random.default_rng(seed)
    x, w = rng.integers(-128, 128, (3, depth)), drawn(rng, (depth, 4), -20, -4)
    found = shift_matmul(x, w, zero_point)
    assert found.values.tobytes() == ((x - zero_point).astype(np.float64) @ w.values + 0.0).tobytes()


def test_a_power_of_two_layer_needs_no_multiplier_at_all() -> None:
    """Shifts and sums, then a shift: code for code the float layer rounded half up."""
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, (50, 64)), drawn(rng, (64, 8), -7, 0)
    found = shift_matmul(x, w, 128)
    step = 2.0**3  # of the output, in units of the input's scale
    codes = requantize(found.mantissa, 2.0**found.exponent / step, 0, -128, 127, Requant.SHIFT_HALF_UP)
    real = (x - 128).astype(np.float64) @ w.values / step
    np.testing.assert_array_equal(codes, np.clip(np.floor(real + 0.5), -128, 127))
    assert (real % 1 == 0.5).any()


def test_sums_that_float64_does_not_hold_are_still_exact() -> None:
    a = LogCodes(np.array([[1, 1]]), np.array([[55, 0]]))
    b = LogCodes(np.array([[1], [1]]), np.zeros((2, 1), np.int64))
    assert log_matmul(a, b).mantissa.tolist() == [[2**55 + 1]]
    assert float((a.values @ b.values)[0, 0]) == 2.0**55


def test_sums_that_62_bits_do_not_hold_are_refused() -> None:
    a = LogCodes(np.array([[1, 1]]), np.array([[62, 0]]))
    b = LogCodes(np.array([[1], [1]]), np.zeros((2, 1), np.int64))
    with pytest.raises(BadOption, match="need 64 bits; 62 exist"):
        log_matmul(a, b)
    with pytest.raises(BadOption, match="62 exist"):
        shift_matmul(np.array([[1, 1]]), LogCodes(b.sign, np.array([[60], [0]])))


def test_the_exponent_of_a_zero_does_not_matter() -> None:
    a = LogCodes(np.array([[0, 1]]), np.array([[900, 1]]))
    b = LogCodes(np.array([[1], [1]]), np.array([[0], [2]]))
    assert log_matmul(a, b).values.tolist() == shift_matmul(np.array([[0, 2]]), b).values.tolist() == [[8.0]]
    nothing = LogCodes(np.zeros((1, 2), np.int64), np.array([[5, 9]]))
    assert log_matmul(nothing, b).values.tolist() == [[0.0]]


# ---- the sum by table ------------------------------------------------------------------------------------------------


def half_even_log2(x: Decimal, steps: int) -> int:
    return int((x.ln() / Decimal(2).ln() * steps).quantize(Decimal(1), ROUND_HALF_EVEN))


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 64])
def test_the_tables_are_the_logarithms_rounded(steps: int) -> None:
    plus, minus = tables(steps)
    with localcontext() as context:
        context.prec = 60
        for d in range(len(plus) + 3):
            apart = (Decimal(2).ln() * (Decimal(-d) / steps)).exp()
            at = min(d, len(plus) - 1)
            assert plus[at] == half_even_log2(1 + apart, steps)
            assert d == 0 or minus[at] == half_even_log2(1 - apart, steps)
    assert plus[-1] == minus[-1] == 0


@pytest.mark.parametrize("steps", [1, 4, 16])
@given(x=st.integers(-60, 60), y=st.integers(-60, 60), signs=st.tuples(st.integers(-1, 1), st.integers(-1, 1)))
def test_a_sum_is_the_nearest_logarithm_of_the_exact_sum(steps: int, x: int, y: int, signs: tuple[int, int]) -> None:
    def one(sign: int, exponent: int) -> LogCodes:
        return LogCodes(np.array([sign]), np.array([exponent]), steps)

    found = log_add(one(signs[0], x), one(signs[1], y))
    with localcontext() as context:
        context.prec = 60
        ln2 = Decimal(2).ln()
        first, second = (s * (ln2 * (Decimal(e) / steps)).exp() for s, e in zip(signs, (x, y), strict=True))
        total = first + second
        if (signs[0] == -signs[1] and x == y) or signs == (0, 0):
            assert found.sign.tolist() == [0]
            return
        assert found.sign.tolist() == [1 if total > 0 else -1]
        assert found.exponent.tolist() == [half_even_log2(abs(total), steps)]


@pytest.mark.parametrize("steps", [16, 64, 256])
def test_a_product_by_table_errs_by_half_a_step_a_sum(steps: int) -> None:
    """Positive terms: each sum is right to a factor of 2**(1 / (2 steps)), and K sums to its power K."""
    rng = np.random.default_rng(steps)
    depth = 12
    a = LogCodes(np.ones((4, depth), np.int64), rng.integers(-5 * steps, 0, (4, depth)), steps)
    b = LogCodes(np.ones((depth, 3), np.int64), rng.integers(-5 * steps, 0, (depth, 3)), steps)
    found = log_matmul_by_table(a, b)
    ratio = np.log2(found.values / (a.values @ b.values)) * steps
    assert np.abs(ratio).max() <= 0.5 * (depth - 1) + 1e-9
    assert np.abs(ratio).max() > 0


def test_a_product_by_table_is_its_sums_one_after_another() -> None:
    rng = np.random.default_rng(4)
    a, b = drawn(rng, (2, 9), -30, 0, 8), drawn(rng, (9, 3), -30, 0, 8)
    found = log_matmul_by_table(a, b)
    for m in range(2):
        for n in range(3):
            total = LogCodes(np.array([0]), np.array([0]), 8)
            for k in range(9):
                term = LogCodes(a.sign[m, [k]] * b.sign[[k], n], a.exponent[m, [k]] + b.exponent[[k], n], 8)
                total = log_add(total, term)
            assert found.sign[m, n] == total.sign[0]
            assert total.sign[0] == 0 or found.exponent[m, n] == total.exponent[0]


ONE = LogCodes(np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64))
FINE = LogCodes(ONE.sign, ONE.exponent, 2)
LONG = LogCodes(np.ones((2, 1), np.int64), np.zeros((2, 1), np.int64))


@pytest.mark.parametrize(("product", "message"), [
    (lambda: log_matmul(ONE, LONG), "do not multiply"), (lambda: log_matmul(ONE, FINE), "1 and 2 steps"),
    (lambda: log_matmul_by_table(ONE, LONG), "do not multiply"), (lambda: log_add(ONE, FINE), "1 and 2 steps"),
    (lambda: shift_matmul(np.ones((1, 3), int), ONE), "do not multiply"),
    (lambda: shift_matmul(np.ones((1, 1), int), FINE), "2 steps an octave do not multiply"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(product: Callable[[], object], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        product()
