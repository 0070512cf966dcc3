"""Promised: fixed point is exact in text, hexadecimal and binary, there and back; it equals the quantizer with a
power-of-two scale; the worked examples of fixed against floating point hold in three bases; Ristretto's lengths come
out of the largest magnitude.
"""

from decimal import (
    ROUND_CEILING,
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_DOWN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Decimal,
    localcontext,
)
from fractions import Fraction
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.qformat import (
    QFormat,
    dynamic_fixed_point,
    from_positional,
    read_decimal,
    round_fraction,
    to_decimal,
    to_positional,
    to_scientific,
)
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.rounding import Rounding

FORMATS = st.builds(
    lambda bits, fraction, signed: QFormat(bits - fraction, fraction, signed),
    st.integers(1, 64),
    st.integers(-20, 80),
    st.booleans(),
)
DECIMAL = {
    Rounding.HALF_EVEN: ROUND_HALF_EVEN,
    Rounding.HALF_AWAY: ROUND_HALF_UP,
    Rounding.HALF_ZERO: ROUND_HALF_DOWN,
    Rounding.FLOOR: ROUND_FLOOR,
    Rounding.CEIL: ROUND_CEILING,
    Rounding.TRUNC: ROUND_DOWN,
}


def test_the_worked_example_in_q8_8_and_q5_11() -> None:
    form = QFormat.parse("8.8")
    code = form.encode(read_decimal("123.45"))
    assert (code, form.hex(code), form.binary(code)) == (31603, "0x7B73", "01111011.01110011")
    assert to_decimal(form.decode(code)) == "123.44921875"
    small = QFormat.parse("Q5.11")
    code = small.encode(read_decimal("123.45"))
    assert (small.hex(code), to_decimal(small.decode(code))) == ("0x7FFF", "15.99951171875")
    code = small.encode(read_decimal("-3.7"))
    assert (code, small.hex(code), small.binary(code)) == (-7578, "0xE266", "11100.01001100110")


@pytest.mark.parametrize(
    ("text", "base", "significand", "exponent"),
    [
        ("12345.78901", 10, "1.234578901", 4),
        ("00123.90000", 10, "1.239", 2),
        ("A1C7D.FF014", 16, "A.1C7DFF014", 4),
        ("00000.000FD", 16, "F.D", -4),
        ("10111.01011", 2, "1.011101011", 4),
        ("00110.00000", 2, "1.1", 2),
    ],
)
def test_five_and_five_digits_against_significand_and_exponent(
    text: str, base: int, significand: str, exponent: int
) -> None:
    value = from_positional(text, base)
    assert to_scientific(value, base) == (significand, exponent)
    assert to_positional(value, base, 5, 5) == text
    assert from_positional(significand, base) * Fraction(base) ** exponent == value


def test_123_45_is_1_2345_times_10_squared() -> None:
    assert to_scientific(read_decimal("123.45"), 10) == ("1.2345", 2)
    assert to_scientific(read_decimal("0"), 10) == ("0", 0)


@given(form=FORMATS, data=st.data())
def test_codes_go_there_and_back_as_value_pattern_and_text(form: QFormat, data: st.DataObject) -> None:
    code = data.draw(st.integers(form.low, form.high))
    value = form.decode(code)
    assert form.encode(value) == code
    assert form.from_pattern(int(form.hex(code), 16)) == code
    assert form.from_pattern(int(form.binary(code).replace(".", ""), 2)) == code
    assert read_decimal(to_decimal(value)) == value
    assert QFormat.parse(str(form)) == form


@given(form=FORMATS, value=st.fractions(), rounding=st.sampled_from(list(Rounding)))
def test_a_code_is_within_a_step_or_at_an_end(form: QFormat, value: Fraction, rounding: Rounding) -> None:
    code = form.encode(value, rounding)
    distance = abs(form.decode(code) - value) / form.decode(1)
    if form.low <= value / form.decode(1) <= form.high:
        assert distance < 1
        if rounding is Rounding.HALF_EVEN:
            assert distance <= Fraction(1, 2)
    else:
        assert code == (form.low if value < 0 else form.high)


@given(rule=st.sampled_from(list(DECIMAL)), n=st.integers(-(10**30), 10**30), places=st.sampled_from([1, 2, 3]))
def test_fractions_of_any_size_round_as_decimal_does(rule: Rounding, n: int, places: int) -> None:
    with localcontext() as context:
        context.prec = 60
        expected = int((Decimal(n) / 10**places).quantize(Decimal(1), DECIMAL[rule]))
    assert round_fraction(Fraction(n, 10**places), rule) == expected


@given(rule=st.sampled_from(list(Rounding)), halves=st.integers(-40, 40))
def test_fractions_round_as_floats_do(rule: Rounding, halves: int) -> None:
    assert round_fraction(Fraction(halves, 2), rule) == rule(np.array([halves / 2]))[0]


@given(
    bits=st.integers(2, 32),
    fraction=st.integers(-8, 40),
    signed=st.booleans(),
    x=st.lists(st.floats(-1e4, 1e4, width=32)),
)
def test_arrays_are_quantized_to_the_same_codes(bits: int, fraction: int, signed: bool, x: list[float]) -> None:
    form = QFormat(bits - fraction, fraction, signed)
    array = np.array(x, np.float32)
    params = form.params(1)
    codes = quantize(array, params)
    assert codes.tolist() == [form.encode(Fraction(float(v))) for v in array]
    exact = np.array([float(form.decode(int(code))) for code in codes], np.float32)
    np.testing.assert_array_equal(dequantize(codes, params), exact)


@pytest.mark.parametrize(("value", "shift", "code"), [(1.3, 4, 21), (1.0, 1, 2), (-1.3, 4, -21), (100.0, 4, 127)])
def test_a_shift_is_a_scale_of_two_to_minus_shift(value: float, shift: int, code: int) -> None:
    params = QFormat(8 - shift, shift).params(1)
    assert params.scale.tolist() == [1 / (1 << shift)]  # value * (1 << shift); not 2 << shift, which is twice that
    assert quantize(np.array([value], np.float32), params).tolist() == [code]
    doubled = QFormat(7 - shift, shift + 1).params(1)
    assert doubled.scale.tolist() == [1 / (2 << shift)]


@given(absmax=st.floats(2.0**-60, 2.0**60), bits=st.sampled_from([4, 8, 16]))
def test_dynamic_fixed_point_has_the_integer_length_of_ristretto(absmax: float, bits: int) -> None:
    weights, activations = dynamic_fixed_point(absmax, bits), dynamic_fixed_point(absmax, bits, activations=True)
    if abs(log2(absmax) - round(log2(absmax))) > 1e-9 or 2.0 ** round(log2(absmax)) == absmax:
        assert weights.integer == ceil(log2(absmax) + 1)
        assert activations.integer == ceil(log2(absmax))
    assert weights.fraction == bits - weights.integer
    # With the sign's bit the largest weight fits, but for at most the last step; activations may lose half their range.
    assert Fraction(absmax) <= weights.decode(weights.high + 1)
    assert Fraction(absmax) > weights.decode(weights.high + 1) / 2
    assert Fraction(absmax) <= activations.decode(activations.high + 1) * 2


def test_dynamic_fixed_point_of_known_ranges() -> None:
    assert [str(dynamic_fixed_point(x, 8)) for x in (0.3, 1.0, 1.5, 4.0, 1000.0, 0.01)] == [
        "Q0.8", "Q1.7", "Q2.6", "Q3.5", "Q11.-3", "Q-5.13",
    ]  # fmt: skip
    form = dynamic_fixed_point(1.5, 8)
    codes = [form.encode(Fraction(x), Rounding.HALF_AWAY) for x in (1.5, -1.5, 0.0078125, 2.0, -2.0, 9.0)]
    assert codes == [96, -96, 1, 127, -128, 127]


@pytest.mark.parametrize("text", ["", "5", "5.", "x5.11", "5.11.2", "Q 5.1", "9999.1"])
def test_texts_that_are_no_format_are_refused(text: str) -> None:
    with pytest.raises(BadOption, match="is no fixed-point format"):
        QFormat.parse(text)


def test_what_is_no_number_or_does_not_fit_is_refused() -> None:
    for text in ("abc", "", "1e"):
        with pytest.raises(BadOption, match="is no number"):
            read_decimal(text)
    for text in ("inf", "nan"):
        with pytest.raises(BadOption, match="is not finite"):
            read_decimal(text)
    for text in ("1e999999999", "1e-999999999", "9" * 6000):
        with pytest.raises(BadOption, match="too large, too small or too long"):
            read_decimal(text)
    with pytest.raises(BadOption, match=r"Q60.8 has 68 bits"):
        QFormat(60, 8)
    with pytest.raises(BadOption, match=r"0x10000 does not fit in the 16 bits of Q8\.8"):
        QFormat(8, 8).from_pattern(0x10000)
    with pytest.raises(BadOption, match="is no number in base 2"):
        from_positional("102.1", 2)
    with pytest.raises(BadOption, match="is not held by 2 and 1 digits of base 10"):
        to_positional(Fraction(1234, 10), 10, 2, 1)
    with pytest.raises(BadOption, match="do not end in base 2"):
        to_scientific(Fraction(1, 10), 2)
    with pytest.raises(BadOption, match="is no binary fraction"):
        to_decimal(Fraction(1, 3))
    for absmax in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(BadCalibration, match="a largest magnitude above 0"):
            dynamic_fixed_point(absmax, 8)
