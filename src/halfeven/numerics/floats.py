"""Float grids: codes that are the bit patterns of a small floating-point format.

A code is sign, exponent field and fraction, from the highest bit down. With b = 2**(exponent bits - 1) - 1 as the usual
bias and m fraction bits,

    field > 0      value = (-1)**sign * (1 + fraction / 2**m) * 2**(field - bias)
    field = 0      value = (-1)**sign * (fraction / 2**m) * 2**(1 - bias)                (subnormal, and zero)

    specials   which codes are no numbers                       bias   formats
    ieee       highest field: infinity, and NaN if fraction     b      float16, bfloat16, float32, float8 e5m2 and e4m3
    fn         all ones below the sign: NaN; no infinity        b      float8 e4m3fn
    fnuz       sign alone (-0): NaN; no infinity, no -0         b + 1  float8 e4m3fnuz, e5m2fnuz
    none       none                                             b      float6 e2m3, e3m2; float4 e2m1
    fnu        unsigned, no zero: 2**(code - 127); 255: NaN     b      e8m0, the scale of MX blocks

    format      largest   least normal   least subnormal        format      largest   least normal   least subnormal
    float16       65504          2**-14           2**-24        e4m3fn          448           2**-6            2**-9
    e4m3            240           2**-6            2**-9        e4m3fnuz        240           2**-7           2**-10
    e5m2          57344          2**-14           2**-16        e5m2fnuz      57344          2**-15           2**-17
    e2m3            7.5               1            2**-3        e3m2             28           2**-2            2**-4
    e2m1              6               1             2**-1

Encoding measures |x| in steps of 2**(e - m), where 2**e <= |x| < 2**(e + 1) but e not below the least exponent; that is
exact. The steps are rounded, and (e - least) * 2**m + steps is the code: a carry runs into the exponent by itself. What
lies beyond the largest number becomes that number (`saturate`), or infinity, or NaN where there is no infinity; a rule
that rounds towards zero stops at the largest number, infinity itself excepted. NaN stays NaN; a format without NaN
gives -0, as ml_dtypes does.

Sources: IEEE 754-2019 3.4; OCP 8-bit Floating Point 1.0 (e4m3fn, e5m2); OCP Microscaling Formats 1.0 (float6, float4,
e8m0); ONNX Cast and QuantizeLinear-19 (fnuz, saturate). ml_dtypes and ONNX Runtime are compared with in the tests.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.rounding import Rounding

Codes = npt.NDArray[np.unsignedinteger]
Values = npt.NDArray[np.float64]


class Specials(StrEnum):
    """Which codes are no numbers; the table above."""

    IEEE = "ieee"
    FN = "fn"
    FNUZ = "fnuz"
    NONE = "none"
    FNU = "fnu"


@dataclass(frozen=True)
class FloatGrid:
    """A floating-point format, as a grid of codes.

    Holds: at least 1 exponent bit; at most 64 bits in all; `bias` None means the usual one. `saturate` is how what is
    too large is encoded, and changes no value.
    """

    exponent: int
    mantissa: int
    specials: Specials = Specials.IEEE
    saturate: bool = False
    bias: int | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.exponent <= 11 and 0 <= self.mantissa <= 52):
            raise BadOption(
                f"FloatGrid: {self.exponent} exponent and {self.mantissa} fraction bits; there are 1 to 11 and 0 to 52."
            )
        if self.specials is Specials.IEEE and (self.exponent < 2 or self.mantissa < 1):
            raise BadOption(
                "FloatGrid: infinity and NaN take the highest exponent: use 2 exponent bits and 1 fraction."
            )
        if self.specials is Specials.FN and self.exponent + self.mantissa < 2:
            raise BadOption("FloatGrid: with NaN and zero no other code is left; use specials 'none'.")
        if self.specials is Specials.FNU and self.mantissa:
            raise BadOption("FloatGrid: a format of powers of two (fnu) has no fraction bits; use mantissa=0.")

    @property
    def signed(self) -> bool:
        """False for scales (fnu) only."""
        return self.specials is not Specials.FNU

    @property
    def bits(self) -> int:
        """The width of a code."""
        return self.signed + self.exponent + self.mantissa

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned integer that holds a code."""
        return np.dtype(f"uint{next(width for width in (8, 16, 32, 64) if width >= self.bits)}")

    @property
    def exponent_bias(self) -> int:
        """What is subtracted from the exponent field."""
        usual = (1 << (self.exponent - 1)) - 1 + (self.specials is Specials.FNUZ)
        return usual if self.bias is None else self.bias

    @property
    def least_exponent(self) -> int:
        """The exponent of the smallest normal number."""
        return int(self.signed) - self.exponent_bias

    @property
    def top_code(self) -> int:
        """The code of the largest finite number."""
        last = (1 << (self.exponent + self.mantissa)) - 1
        if self.specials is Specials.IEEE:
            return last - (1 << self.mantissa)
        return last - (self.specials in (Specials.FN, Specials.FNU))

    @property
    def nan_code(self) -> int | None:
        """The code that NaN gets, without its sign; None where there is none."""
        match self.specials:
            case Specials.IEEE:
                return self.top_code + 1 + (1 << (self.mantissa - 1))
            case Specials.FNUZ:
                return 1 << (self.bits - 1)
            case Specials.NONE:
                return None
            case _:
                return self.top_code + 1

    @property
    def high(self) -> float:
        """The largest finite value."""
        return float(self.decode(np.array(self.top_code, self.dtype)))

    @property
    def emax(self) -> int:
        """The exponent of the largest power of two."""
        return int(np.frexp(self.high)[1]) - 1

    def __str__(self) -> str:
        """`float8e4m3fn`."""
        tail = "" if self.specials in (Specials.IEEE, Specials.NONE) else self.specials.value
        bias = "" if self.bias is None else f"b{self.bias}"
        return f"float{self.bits}e{self.exponent}m{self.mantissa}{bias}{tail}"

    def decode(self, codes: npt.NDArray[np.integer]) -> Values:
        """The values of codes, exactly, in float64."""
        bits = codes.astype(np.uint64)
        magnitude = (bits & np.uint64((1 << (self.exponent + self.mantissa)) - 1)).astype(np.int64)
        if not self.signed:
            return np.where(magnitude > self.top_code, np.nan, np.ldexp(1.0, magnitude - self.exponent_bias))
        negative = (bits >> np.uint64(self.bits - 1)).astype(bool)
        field = magnitude >> self.mantissa
        fraction = (magnitude & ((1 << self.mantissa) - 1)) + ((field > 0).astype(np.int64) << self.mantissa)
        # A field beyond the highest float64 exponent belongs to infinity or NaN, which are put in below.
        with np.errstate(over="ignore"):
            value = np.ldexp(fraction.astype(np.float64), np.maximum(field, 1) - self.exponent_bias - self.mantissa)
        value = np.where(magnitude > self.top_code, np.nan, value)
        if self.specials is Specials.IEEE:
            value = np.where(magnitude == self.top_code + 1, np.inf, value)
        if self.specials is Specials.FNUZ:
            value = np.where(negative & (magnitude == 0), np.nan, value)
        return np.where(negative, -value, value)

    def encode(self, x: npt.NDArray[np.floating], rounding: Rounding = Rounding.HALF_EVEN) -> Codes:
        """The codes of `x`, rounded to the grid once; of `x`'s shape and `dtype`."""
        with np.errstate(invalid="ignore"):  # a signalling NaN
            wide = np.asarray(x, np.float64)
        least, number = self.least_exponent, np.isfinite(wide)
        exponent = np.where(wide == 0, least, np.maximum(np.frexp(wide)[1] - 1, least))
        steps = rounding(np.ldexp(np.where(number, wide, 0.0), self.mantissa - exponent))
        codes = ((exponent - least).astype(np.int64) << self.mantissa) + np.abs(steps).astype(np.int64)
        if not self.signed:
            codes = np.maximum(codes - 1, 0)  # the hidden bit is all there is
        codes = self._within(wide, codes, rounding)
        negative = np.signbit(wide) & (self.specials is not Specials.FNU)
        if self.specials is Specials.FNUZ:
            negative &= (codes != 0) & (codes != self.nan_code)
        patterns = codes.astype(np.uint64) | (negative.astype(np.uint64) << np.uint64(self.bits - 1))
        return patterns.astype(self.dtype)

    def _within(self, x: Values, codes: npt.NDArray[np.int64], rounding: Rounding) -> npt.NDArray[np.int64]:
        """Give a code to what is too large, infinite or NaN."""
        top, nan = self.top_code, self.nan_code
        beyond = top if self.saturate or nan is None else top + 1 if self.specials is not Specials.FNUZ else nan
        # A rule that sends 0.75 to 0 on this side of zero never steps over the largest number.
        inward = rounding(np.copysign(0.75, x)) == 0
        codes = np.where(codes > top, np.where(inward, top, beyond), codes)
        codes = np.where(np.isinf(x), beyond, codes)
        lost = np.isnan(x) if self.signed else np.isnan(x) | (x <= 0)
        if nan is None:
            return np.where(lost, 1 << (self.bits - 1), codes)
        return np.where(lost, nan, codes)


def saturating(grid: FloatGrid) -> FloatGrid:
    """The same format, where what is too large becomes the largest number (ONNX `saturate=1`)."""
    return replace(grid, saturate=True)


FLOAT64 = FloatGrid(11, 52)
FLOAT32 = FloatGrid(8, 23)
FLOAT16 = FloatGrid(5, 10)
BFLOAT16 = FloatGrid(8, 7)
FLOAT8_E4M3 = FloatGrid(4, 3)
FLOAT8_E4M3FN = FloatGrid(4, 3, Specials.FN, saturate=True)
FLOAT8_E4M3FNUZ = FloatGrid(4, 3, Specials.FNUZ, saturate=True)
FLOAT8_E5M2 = FloatGrid(5, 2, saturate=True)
FLOAT8_E5M2FNUZ = FloatGrid(5, 2, Specials.FNUZ, saturate=True)
FLOAT6_E2M3 = FloatGrid(2, 3, Specials.NONE, saturate=True)
FLOAT6_E3M2 = FloatGrid(3, 2, Specials.NONE, saturate=True)
FLOAT4_E2M1 = FloatGrid(2, 1, Specials.NONE, saturate=True)
FLOAT8_E8M0 = FloatGrid(8, 0, Specials.FNU)
