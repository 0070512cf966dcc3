"""What a floating-point code consists of, who its neighbours are, and how many float32 share a code.

    value = (-1)**sign * M * 2**k          M = hidden.fraction in binary, k = exponent field - bias (+ 1 if subnormal)

    123.45 in float32: sign 0, exponent field 10000101 = 133, k = 6, fraction 11101101110011001100110, hidden bit 1:
    1.92890620231628418 * 2**6 = 123.4499969482421875, the float32 nearest to 123.45.

    type       lowest                      highest
    float32    -(2 - 2**-23) * 2**127      (2 - 2**-23) * 2**127 = 3.4028234663852886e38
    float16    -65504                      65504
    bfloat16   -(2 - 2**-7) * 2**127       (2 - 2**-7) * 2**127
    int8       -128                        127
    uint8      0                           255
    int16      -32768                      32767
    int32      -2**31                      2**31 - 1

Half of all float32 lie in [-1, 1], and most of those next to zero: on int8 or uint8 over [-1, 1] the code of zero gets
almost all of them (94 %), and a code next to the ends 131 thousand. `float32_per_code` counts them, by bisection on
the order of float32 with `fake_quantize` itself.

Source: IEEE 754-2019, 3.4.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.floats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FloatGrid, Specials
from halfeven.numerics.grid import INT8, INT16, INT32, UINT8, Grid, IntGrid
from halfeven.numerics.qformat import round_fraction
from halfeven.numerics.quantize import fake_quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams

Kind = Literal["normal", "subnormal", "zero", "infinity", "nan"]
TYPES: dict[str, IntGrid | FloatGrid] = {
    "float64": FLOAT64,
    "float32": FLOAT32,
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "int8": INT8,
    "uint8": UINT8,
    "int16": INT16,
    "int32": INT32,
}


def limits(grid: IntGrid | FloatGrid) -> tuple[Fraction, Fraction]:
    """The lowest and the highest finite value at scale 1, exactly."""
    if isinstance(grid, IntGrid):
        return Fraction(grid.low), Fraction(grid.high)
    high = Fraction(grid.high)
    return (-high if grid.signed else Fraction(2) ** -grid.exponent_bias), high


@dataclass(frozen=True)
class Fields:
    """The parts of a code; `significand` M and `power` k are 0 for infinity and NaN."""

    kind: Kind
    sign: int
    exponent: int
    fraction: int
    hidden: int
    significand: Fraction
    power: int

    @property
    def value(self) -> Fraction | None:
        """(-1)**sign * M * 2**k; None for infinity and NaN."""
        if self.kind in ("infinity", "nan"):
            return None
        size = self.significand * Fraction(2) ** self.power
        return -size if self.sign else size


def fields_of(code: int, grid: FloatGrid) -> Fields:
    """The parts of `code`.

    Raises:
        BadOption: the code has more bits than the format.
    """
    if not 0 <= code < 1 << grid.bits:
        raise BadOption(f"0x{code:X} does not fit in the {grid.bits} bits of {grid}.")
    magnitude = code & ((1 << (grid.exponent + grid.mantissa)) - 1)
    sign = code >> (grid.bits - 1) if grid.signed else 0
    field, fraction = magnitude >> grid.mantissa, magnitude & ((1 << grid.mantissa) - 1)
    if magnitude > grid.top_code or (grid.specials is Specials.FNUZ and code == grid.nan_code):
        infinite = grid.specials is Specials.IEEE and magnitude == grid.top_code + 1
        return Fields("infinity" if infinite else "nan", sign, field, fraction, 0, Fraction(0), 0)
    hidden = int(field > 0 or not grid.signed)
    significand = hidden + Fraction(fraction, 1 << grid.mantissa)
    kind: Kind = "normal" if hidden else "subnormal" if fraction else "zero"
    power = max(field, int(grid.signed)) - grid.exponent_bias
    return Fields(kind, sign, field, fraction, hidden, significand, power)


def nearest_code(value: Fraction, grid: FloatGrid, rounding: Rounding = Rounding.HALF_EVEN) -> int:
    """The code of an exact value: rounded once, never through another format."""
    if value == 0:
        return int(grid.encode(np.zeros(1))[0])
    power = abs(value.numerator).bit_length() - value.denominator.bit_length()
    power -= Fraction(2) ** power > abs(value)
    step = Fraction(2) ** (max(power, grid.least_exponent) - grid.mantissa)
    steps = round_fraction(value / step, rounding)
    try:
        number = float(steps * step)
    except OverflowError:
        number = np.inf if value > 0 else -np.inf
    if steps == 0 and value < 0:
        number = -0.0
    return int(grid.encode(np.array([number]))[0])


def neighbours(code: int, grid: FloatGrid) -> tuple[int | None, int | None]:
    """The codes of the next value below and above; None where there is none, and for NaN."""
    if fields_of(code, grid).kind == "nan":
        return None, None
    mask = (1 << (grid.exponent + grid.mantissa)) - 1
    rank = -(code & mask) if grid.signed and code >> (grid.bits - 1) else code & mask
    return _ranked(rank - 1, grid), _ranked(rank + 1, grid)


def _ranked(rank: int, grid: FloatGrid) -> int | None:
    """The code of the value that is `rank` values above zero."""
    last = grid.top_code + (grid.specials is Specials.IEEE)
    if abs(rank) > last or (rank < 0 and not grid.signed):
        return None
    return rank if rank >= 0 else -rank | 1 << (grid.bits - 1)


def float32_per_code(
    params: QParams[Grid], low: float, high: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """How many float32 of `[low, high]` fall onto each value that a per-tensor quantizer gives them.

    Returns the values, increasing, and the counts; -0.0 and 0.0 are two float32. The sum of the counts is the number of
    float32 in the interval.

    Raises:
        BadOption: the parameters are not per tensor, or the interval is none.
    """
    if params.scale.size != 1 or not -np.inf < low <= high < np.inf:
        raise BadOption("float32_per_code: it takes per-tensor parameters and a finite interval.")
    first, last = (int(_orders(np.array([end], np.float32))[0]) for end in (low, high))
    values, starts = [], [first]
    while starts[-1] <= last:
        start = starts[-1]
        values.append(_onto(start, params))
        inside, outside = start, last + 1
        while outside - inside > 1:
            middle = (inside + outside) // 2
            inside, outside = (middle, outside) if _onto(middle, params) == values[-1] else (inside, middle)
        starts.append(outside)
    places = np.array(starts, np.int64)
    return np.array(values, np.float32), places[1:] - places[:-1]


def _orders(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Integers in the order of float32: 0.0 is 0, -0.0 is -1."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def _onto(order: int, params: QParams[Grid]) -> float:
    """What becomes of the float32 with this place in the order."""
    bits = order if order >= 0 else (-order - 1) | 0x80000000
    x = np.array([bits], np.uint32).view(np.float32)
    return float(fake_quantize(x.reshape((1,) * max(params.scale.ndim, 1)), params).ravel()[0])
