"""Functions of int8 codes in fixed point, as gemmlowp computes them.

Softmax is that of LiteRT's reference kernels and of TensorFlow Lite Micro, sigmoid and tanh are Micro's. With sx, zx of
the input, m and l the multiplier m 2**(l - 31) of sx 2**(31 - bits), `*` high_multiply, all numbers of 32 bits:

    e(x), x <= 0       e^x of 31 fractional bits, x of 31 - bits: a polynomial of degree 4 around -1/8 for what is left
                       of quarters, then a factor e^-(2**k) for each bit k of the quarters
    r(x), 0 <= x < 1   Newton's three steps for 1 / d from 48/17 - 32/17 d, d = (1 + x) / 2, with 29 fractional bits:
                       1 / (1 + x) = r << 1 and (1 - x) / (1 + x) = (r - 2**29) << 2, both saturated
    softmax            bits = 5 of differences to the largest code; those below -floor(31 2**26 / 2**l) count nothing;
                       the sum has 19 fractional bits; codes are half_away(e(x) * 1 / sum), of scale 1/256
    sigmoid            bits = 4; x = double_rounding(q - zx); y = 1 / (1 + e(-|x|)), 2**31 - 1 less that below zero,
                       2**30 at zero; half_away(y / 2**23) - 128
    tanh               bits = 4; (1 - e(-2 |x|)) / (1 + e(-2 |x|)) with the sign of x; half_away(y / 2**24)
    both               -128 where q - zx <= -R, 127 where q - zx >= R, R = floor(15 2**27 / 2**l)

Sources: gemmlowp fixedpoint/fixedpoint.h; LiteRT tflite/kernels/internal/reference/softmax.h; TensorFlow Lite Micro
kernels/logistic_common.cc, tanh.cc, reference/integer_ops/logistic.h, tanh.h.
"""

import numpy as np

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.multiplier import Multiplier, litert_multiplier
from halfeven.numerics.requant import Codes
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import Integers, high_multiply, rounding_shift, saturate

_EXPONENTIALS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
"""e^(-2**k) of 31 fractional bits."""
_LARGEST = (1 << 31) - 1
_SUM_BITS = 19  # fractional bits of the sum of exponentials, Q12.19


def softmax(x: AnyCodes, given: Affine, out: Output) -> Codes:
    """Codes of the softmax of int8 `x` along its last axis, in fixed point; int32. The output's scale is 1/256.

    Raises:
        BadOption: the sum of exponentials reaches 512, where the runtime ends its process; or the input's scale is so
            small that its codes cannot be shifted left.
    """
    by, left = _input(given, 5)
    if left < 0:
        raise BadOption(
            f"Softmax of codes of scale {given.scale:.6g}: LiteRT's reference kernel takes scales of at least 2**-27."
        )
    least = -int(np.floor(31.0 * (1 << 26) / (1 << left)))
    wide = x.astype(np.int64)
    difference = wide - wide.max(-1, keepdims=True)
    counted = difference >= least
    kept = np.where(counted, difference, 0)
    e = _exponential(_multiplied(kept << left, by.mantissa), 26)
    parts = rounding_shift(e, 31 - _SUM_BITS, Rounding.HALF_AWAY)
    total = np.where(counted, parts, 0).sum(-1, keepdims=True)
    if (total >> 28).any():
        raise BadOption(f"Softmax over {x.shape[-1]} codes: LiteRT's reference kernel fails on a sum of 512 and more.")
    leading = 32 - np.vectorize(int.bit_length, otypes=[np.int64])(total.astype(object))
    scale = saturate(_reciprocal((total << leading) - (1 << 31)) << 1, 32)
    codes = rounding_shift(_multiplied(scale, e), 12 - leading + 31 - 8, Rounding.HALF_AWAY) + out.low
    return np.where(counted, np.clip(codes, out.low, out.high), out.low).astype(np.int32)


def table(function: str, given: Affine) -> Codes:
    """The codes of Sigmoid (scale 1/256, zero point -128) or Tanh (1/128, 0) for the input codes -128..127; int32."""
    by, left = _input(given, 4)
    radius = int(np.floor(15.0 * (1 << 27) / 2.0**left))
    offsets = np.arange(-128 - given.zero_point, 128 - given.zero_point)
    inside = np.abs(offsets) < radius
    kept = np.where(inside, offsets, 0)
    x = _scaled(kept, by, left)
    e = _exponential(-np.abs(x), 27 if function == "Sigmoid" else 26)
    if function == "Sigmoid":
        high = saturate(_reciprocal(e) << 1, 32)
        y = np.where(x == 0, 1 << 30, np.where(x > 0, high, _LARGEST - high))
        codes = rounding_shift(y, 23, Rounding.HALF_AWAY) - 128
    else:
        y = np.sign(x) * saturate((_reciprocal(e) - (1 << 29)) << 2, 32)
        codes = rounding_shift(y, 24, Rounding.HALF_AWAY)
    return np.where(inside, np.clip(codes, -128, 127), np.where(offsets < 0, -128, 127)).astype(np.int32)


def _input(given: Affine, bits: int) -> tuple[Multiplier, int]:
    """The multiplier that gives codes 31 - `bits` fractional bits, and its left shift."""
    by = litert_multiplier(min(np.float64(np.float32(given.scale)) * (1 << (31 - bits)), 2.0**31 - 1))
    return by, 31 - int(by.shift)


def _scaled(x: Integers, by: Multiplier, left: int) -> Integers:
    product = _multiplied(x << max(left, 0), by.mantissa)
    return rounding_shift(product, max(-left, 0), Rounding.HALF_AWAY)


def _multiplied(a: Integers, b: Integers | int) -> Integers:
    return high_multiply(np.asarray(a, np.int64), np.asarray(b, np.int64))


def _exponential(x: Integers, fraction: int) -> Integers:
    """e^x of 31 fractional bits, for x <= 0 of `fraction`: a polynomial around -1/8, then factors by bits of x."""
    quarter = 1 << (fraction - 2)
    rest = (x & (quarter - 1)) - quarter
    near = (rest << (31 - fraction)) + (1 << 28)
    square = _multiplied(near, near)
    fourth = _multiplied(square, square)
    third = _multiplied(square, near)
    sixth = _multiplied(rounding_shift(fourth, 2, Rounding.HALF_AWAY) + third, 715827883)
    term = rounding_shift(sixth + square, 1, Rounding.HALF_AWAY)
    found = 1895147668 + _multiplied(near + term, 1895147668)
    for power, factor in _EXPONENTIALS:
        found = np.where((rest - x) & (1 << (fraction + power)), _multiplied(found, factor), found)
    return np.where(x == 0, _LARGEST, found)


def _reciprocal(x: Integers) -> Integers:
    """2 / (1 + x) of 29 fractional bits, for 0 <= x < 1 of 31."""
    half = rounding_shift(x + _LARGEST, 1, Rounding.HALF_AWAY)
    found = 1515870810 + _multiplied(half, -1010580540)
    for _ in range(3):
        missing = (1 << 29) - _multiplied(half, found)
        found = found + saturate(_multiplied(found, missing) << 2, 32)
    return np.asarray(found, np.int64)
