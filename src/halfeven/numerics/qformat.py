"""Fixed point: numbers with so many bits before the point and so many after it; and positional notation in any base.

    Qm.n     m integer bits, the sign among them, and n fraction bits: m + n bits in two's complement (Arm's notation;
             Texas Instruments does not count the sign)                  value = code * 2**-n
    UQm.n    the same without a sign

    Q5.11 of 123.45     saturates: the largest is 15.99951171875 = 0x7FFF
    Q8.8  of 123.45     code 31603 = 0x7B73 = 01111011.01110011 = 123.44921875

All of it is exact: values are fractions, and text is read and written digit by digit. m or n may be negative, as a code
of 8 bits can stand for thousands, or for thousandths only: that is dynamic fixed point. Ristretto finds

    m = ceil(log2(absmax) + 1)     weights        n = bits - m
    m = ceil(log2(absmax))         activations: a bit less, so the largest saturate

`IIIII.FFFFF` against `significand * base**exponent`, in base 10, 16 and 2, is `to_positional` and `to_scientific`.

Sources: Arm, "Application Note 33: Fixed Point Arithmetic"; Gysel 2016, arXiv:1605.06402, section 5, and Ristretto's
quantization.cpp (RunForwardBatches: il_in_, il_params_).
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import floor, frexp

import numpy as np

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme

DIGITS = "0123456789ABCDEF"
LARGEST = 5000  # decimal digits on either side of the point that a number may have
SPELLED = re.compile(r"(?P<u>[uU]?)[qQ]?(?P<m>-?\d{1,3})\.(?P<n>-?\d{1,3})")


@dataclass(frozen=True)
class QFormat:
    """Qm.n, or UQm.n if not signed.

    Holds: 1 <= integer + fraction <= 64.
    """

    integer: int
    fraction: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 64:
            raise BadOption(f"{self} has {self.bits} bits; 1 to 64 are possible.")

    @property
    def bits(self) -> int:
        """The width of a code."""
        return self.integer + self.fraction

    @property
    def low(self) -> int:
        """The lowest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The highest code."""
        return (1 << (self.bits - self.signed)) - 1

    def __str__(self) -> str:
        """`Q5.11`, `UQ8.8`."""
        return f"{'' if self.signed else 'U'}Q{self.integer}.{self.fraction}"

    @staticmethod
    def parse(text: str) -> "QFormat":
        """The inverse of `str`; the Q may be left out, `5.11`, and the U be small, `u8.8`.

        Raises:
            BadOption: the text is no such format.
        """
        found = SPELLED.fullmatch(text.strip())
        if found is None:
            raise BadOption(f"'{text}' is no fixed-point format; expected one such as 5.11, or u8.8 without sign.")
        return QFormat(int(found["m"]), int(found["n"]), not found["u"])

    def encode(self, value: Fraction, rounding: Rounding = Rounding.HALF_EVEN) -> int:
        """The code of `value`, rounded exactly and saturated."""
        return min(max(round_fraction(value / self.decode(1), rounding), self.low), self.high)

    def decode(self, code: int) -> Fraction:
        """The value of a code."""
        return Fraction(code) / Fraction(2) ** self.fraction

    def hex(self, code: int) -> str:
        """`0x7B73`: two's complement, in as many digits as the width takes."""
        return f"0x{code % (1 << self.bits):0{-(-self.bits // 4)}X}"

    def binary(self, code: int) -> str:
        """`01111011.01110011`: two's complement, with the point where it falls inside the code."""
        digits = f"{code % (1 << self.bits):0{self.bits}b}"
        return f"{digits[: self.integer]}.{digits[self.integer :]}" if 0 < self.integer < self.bits else digits

    def from_pattern(self, pattern: int) -> int:
        """The code that a bit pattern, such as one read from hexadecimal, stands for.

        Raises:
            BadOption: the pattern has more bits than the format.
        """
        if not 0 <= pattern < 1 << self.bits:
            raise BadOption(f"0x{pattern:X} does not fit in the {self.bits} bits of {self}.")
        return pattern - (1 << self.bits) if self.signed and pattern >> (self.bits - 1) else pattern

    def params(self, rank: int = 0) -> QParams[IntGrid]:
        """The format as a per-tensor scheme with a power-of-two scale, for arrays; at most 32 bits."""
        scheme = Scheme(IntGrid(self.bits, self.signed), scale=ScaleRule.POWER_OF_TWO)
        shape = (1,) * rank
        scale = np.full(shape, np.ldexp(np.float32(1), -self.fraction), np.float32)
        return QParams(scheme, scale, np.zeros(shape, np.int32))


def dynamic_fixed_point(absmax: float, bits: int, *, activations: bool = False) -> QFormat:
    """Ristretto's format of `bits` bits for values up to `absmax`; its rounding is half away from zero.

    Raises:
        BadCalibration: absmax is not positive and finite, so has no logarithm.
    """
    if not 0 < absmax < float("inf"):
        raise BadCalibration(f"Dynamic fixed point needs a largest magnitude above 0, and finite; found {absmax}.")
    mantissa, exponent = frexp(absmax)  # 1/2 <= mantissa < 1, so ceil(log2) is the exponent unless a power of two
    integer = exponent - (mantissa == 0.5) + (not activations)
    return QFormat(integer, bits - integer)


def round_fraction(value: Fraction, rounding: Rounding) -> int:
    """`value` rounded by the rule, exactly, however large.

    A rule sees only sign, parity and which half of the step: so it is asked about a small number that has the same.
    """
    below = floor(value)
    rest = value - below
    small = below % 2 - 2 * (value < 0)
    part = 0.0 if rest == 0 else 0.25 if rest < Fraction(1, 2) else 0.5 if rest == Fraction(1, 2) else 0.75
    return int(rounding(np.array([small + part]))[0]) + below - small


def read_decimal(text: str) -> Fraction:
    """The exact value of decimal text such as `123.45` or `-1e-3`.

    Raises:
        BadOption: it is no finite number, or one with thousands of digits.
    """
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise BadOption(f"'{text}' is no number; expected one such as 123.45, -1e-3, inf or nan.") from None
    if not value.is_finite():
        raise BadOption(f"'{text}' is not finite, and has no digits.")
    if (value and abs(value.adjusted()) > LARGEST) or len(value.as_tuple().digits) > LARGEST:
        raise BadOption(f"'{text[:20]}' is too large, too small or too long; at most {LARGEST} digits are read.")
    return Fraction(value)


def to_decimal(value: Fraction) -> str:
    """All digits of a binary fraction: `123.44921875`.

    Raises:
        BadOption: the denominator is no power of two, so the digits may not end.
    """
    places = value.denominator.bit_length() - 1
    if value.denominator != 1 << places:
        raise BadOption(f"{value} is no binary fraction; only those are written out in full.")
    digits = str(abs(value.numerator) * 5**places).rjust(places + 1, "0")
    whole, rest = (digits[:-places], digits[-places:].rstrip("0")) if places else (digits, "")
    return f"{'-' if value < 0 else ''}{whole}{'.' if rest else ''}{rest}"


def from_positional(text: str, base: int) -> Fraction:
    """The value of digits with a point, `A1C7D.FF014` in base 16.

    Raises:
        BadOption: a digit that the base does not have, or none.
    """
    body = text.strip().upper().removeprefix("-").removeprefix("+")
    whole, _, rest = body.partition(".")
    digits = whole + rest
    if not digits or len(digits) > LARGEST or any(digit not in DIGITS[:base] for digit in digits):
        raise BadOption(f"'{text[:40]}' is no number in base {base}; expected digits such as {DIGITS[1:base][-3:]}.1.")
    value = Fraction(int(digits, base), base ** len(rest))
    return -value if text.strip().startswith("-") else value


def to_positional(value: Fraction, base: int, integer: int, fraction: int) -> str:
    """IIIII.FFFFF: `integer` digits before the point and `fraction` after it, with leading zeros.

    Raises:
        BadOption: the value does not fit, or has digits further down.
    """
    scaled = abs(value) * base**fraction
    if scaled.denominator != 1 or scaled >= base ** (integer + fraction):
        raise BadOption(f"{value} is not held by {integer} and {fraction} digits of base {base}.")
    digits = _digits(int(scaled), base).rjust(integer + fraction, "0")
    return f"{'-' if value < 0 else ''}{digits[:integer]}{'.' if fraction else ''}{digits[integer:]}"


def to_scientific(value: Fraction, base: int) -> tuple[str, int]:
    """Significand and exponent: `("A.1C7DFF014", 4)` stands for A.1C7DFF014 * 16**4, the exponent in decimal.

    Raises:
        BadOption: the digits of the value do not end in this base.
    """
    if value == 0:
        return "0", 0
    places = 0
    scaled = abs(value)
    while scaled.denominator != 1:
        if places == LARGEST:
            raise BadOption(f"The digits of {value} do not end in base {base}.")
        scaled, places = scaled * base, places + 1
    digits = _digits(int(scaled), base)
    exponent = len(digits) - 1 - places
    rest = digits[1:].rstrip("0")
    return f"{'-' if value < 0 else ''}{digits[0]}{'.' if rest else ''}{rest}", exponent


def _digits(number: int, base: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = DIGITS[digit] + digits
    return digits or "0"
