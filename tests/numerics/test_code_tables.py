"""Promised: the exponential is right to 2**-51 by Python's decimals; every table entry is the nearest code to the exact
value; a softmax in integers is within a code of the exact one, and its sums fit 63 bits or are refused.
"""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.code_tables import (
    FUNCTIONS,
    code_table,
    exp,
    exponentials,
    look_up,
    softmax,
    softmax_multiplier,
)
from halfeven.numerics.elementwise import Affine, Output

affines = st.builds(Affine, st.floats(2.0**-12, 1.0).map(np.float32).map(float), st.integers(-128, 127))


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=20))
def test_the_exponential_is_right_to_51_bits(xs: list[float]) -> None:
    with localcontext() as context:
        context.prec = 40
        for x, found in zip(xs, exp(xs), strict=True):
            exact = Decimal(x).exp()
            assert abs(Decimal(float(found)) - exact) <= exact * Decimal(2) ** -51
    assert exp(0.0) == 1.0


EXACT = {
    "Requantize": lambda x: x,
    "Clip": lambda x: x,
    "Relu": lambda x: max(x, Decimal(0)),
    "LeakyRelu": lambda x: x if x >= 0 else x * Decimal(float(np.float32(0.3))),
    "Sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "Tanh": lambda x: 2 / (1 + (-2 * x).exp()) - 1,
    "HardSigmoid": lambda x: min(max(x * Decimal(float(np.float32(0.3))) + Decimal("0.5"), Decimal(0)), Decimal(1)),
    "HardSwish": lambda x: x * min(max(x / 6 + Decimal("0.5"), Decimal(0)), Decimal(1)),
    "Div": lambda x: x / Decimal(float(np.float32(-0.7))),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@given(given_=affines, out=affines)
def test_an_entry_is_the_nearest_code(function: str, given_: Affine, out: Affine) -> None:
    table = code_table(function, given_, Output(out, -128, 127), attributes={"alpha": 0.3, "divisor": -0.7})
    assert (table.shape, table.min() >= -128, table.max() <= 127) == ((256,), True, True)
    with localcontext() as context:
        context.prec = 30
        for code in (-128, -127, -77, -1, 0, 1, 2, 30, 64, 126, 127):
            y = EXACT[function](Decimal(code - given_.zero_point) * Decimal(given_.scale))
            near = min(max(y / Decimal(out.scale) + out.zero_point, Decimal(-128)), Decimal(127))
            assert abs(int(table[code + 128]) - near) <= Decimal("0.5") + Decimal(2) ** -40


def test_a_tie_goes_to_the_even_code_and_limits_hold() -> None:
    table = code_table("Requantize", Affine(0.5, 0), Output(Affine(1.0, 0), -2, 2))
    wanted = [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]  # of -2.5, -2, -1.5, -1, -0.5 and so on
    np.testing.assert_array_equal(look_up(np.arange(-5, 6), table), wanted)
    with pytest.raises(BadOption, match="no table of 'Erf'"):
        code_table("Erf", Affine(1.0), Output(Affine(1.0), -128, 127))


@given(affines, st.integers(1, 60), st.integers(0, 999))
def test_softmax_is_the_exact_one_to_a_code(given_: Affine, length: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-128, 128, (3, length, 2)).astype(np.int8)
    found = softmax(x, 1, given_, Output(Affine(1 / 256, -128), -128, 127))
    e = np.exp((x.astype(np.float64) - x.max(1, keepdims=True)) * given_.scale)
    exact = np.clip(e / e.sum(1, keepdims=True) * 256 - 128, -128, 127)
    assert np.abs(found - exact).max() <= 0.5 + length * 2.0**-15


def test_softmax_of_equal_codes_is_even_and_sums_that_do_not_fit_are_refused() -> None:
    found = softmax(np.zeros((1, 4), np.int8), 1, Affine(0.1), Output(Affine(1 / 256, -128), -128, 127))
    np.testing.assert_array_equal(found, [[-64, -64, -64, -64]])
    assert exponentials(0.1)[0] == 1 << 23
    assert exponentials(100.0)[1] == 0
    softmax_multiplier(1 / 256, 1 << 17)
    with pytest.raises(BadOption, match="over 63 bits"):
        softmax_multiplier(1 / 256, 1 << 18)
