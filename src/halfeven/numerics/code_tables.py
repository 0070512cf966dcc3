"""Functions of one number as tables of 256 codes, and softmax by a table: for devices without floats.

    table[c - low] = clip(half_even(f((c - zx) * sx) / sy) + zy, low, high)       c = low .. 255 + low, in float64

so a device computes no function, it looks one up. `f` is one of

    Relu      max(x, 0)                      Sigmoid      1 / (1 + e^-x)              Requantize   x
    LeakyRelu x, alpha x below 0             Tanh         2 / (1 + e^-2x) - 1         Clip         x, by its limits
    HardSigmoid  min(max(alpha x + beta, 0), 1)           HardSwish    x min(max(x / 6 + 1/2, 0), 1)
    Div       x / divisor, one number other than 0

Softmax over K codes, with d = (largest code) - c, 0 to 255, from the exponentials E[d] = half_even(2**23 e^(-d sx)):

    code = clip(floor((E[d] m + h) / (S 2**s)) + zy, low, high)      S = sum of E over the axis, h = S 2**(s-1)

with 1 / sy = m 2**-s as in `multiplier`: one rounding, half_up, in unsigned 64 bits. E[0] = 2**23, so S is never 0.

e^x is computed here, of sums, products and quotients of float64 alone, which IEEE 754 rounds alike everywhere; a libm's
exp differs from machine to machine in the last bit, and on a tie that would be another code:

    k = half_even(x / ln 2),  r = (x - k L1) - k L2,  e^x = 2**k (1 + r (1 + r/2 (1 + r/3 (... (1 + r/14)))))

with L1 the leading 33 bits of ln 2 and L2 the rest. Its error is below 2**-51 of the value.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.multiplier import Multiplier, litert_multiplier
from halfeven.numerics.requant import Codes

Doubles = npt.NDArray[np.float64]
EXP_BITS = 23
SOFTMAX_BITS = 63
_LN2 = 0.6931471805599453
_LN2_HEAD, _LN2_TAIL = 0.6931471804855391, 7.440617110012397e-11
_TERMS = 14


def exp(x: npt.ArrayLike) -> Doubles:
    """The exponential function of `x`, for -700 <= x <= 700, to 2**-51, the same bits on every machine."""
    wide = np.asarray(x, np.float64)
    k = np.rint(wide / _LN2)
    r = (wide - k * _LN2_HEAD) - k * _LN2_TAIL
    total = np.ones_like(r)
    for n in range(_TERMS, 0, -1):
        total = 1.0 + (r / n) * total
    return np.asarray(np.ldexp(total, k.astype(np.int32)), np.float64)


def _sigmoid(x: Doubles) -> Doubles:
    small = exp(-np.minimum(np.abs(x), 700.0))
    return np.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def _tanh(x: Doubles) -> Doubles:
    small = exp(-2.0 * np.minimum(np.abs(x), 350.0))
    return np.copysign((1.0 - small) / (1.0 + small), x)


def _number(given: Mapping[str, Any], name: str, default: float) -> np.float64:
    return np.float64(np.float32(given.get(name, default)))


FUNCTIONS: Mapping[str, Callable[[Doubles, Mapping[str, Any]], Doubles]] = {
    "Requantize": lambda x, _: x,
    "Clip": lambda x, _: x,
    "Relu": lambda x, _: np.maximum(x, 0.0),
    "LeakyRelu": lambda x, given: np.where(x >= 0, x, x * _number(given, "alpha", 0.01)),
    "Sigmoid": lambda x, _: _sigmoid(x),
    "Tanh": lambda x, _: _tanh(x),
    "HardSigmoid": lambda x, given: np.clip(x * _number(given, "alpha", 0.2) + _number(given, "beta", 0.5), 0.0, 1.0),
    "HardSwish": lambda x, _: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "Div": lambda x, given: x / _number(given, "divisor", 1.0),
}
"""By ONNX operator; `given` are its attributes, of Div its `divisor`."""


def code_table(
    function: str, given: Affine, out: Output, low: int = -128, attributes: Mapping[str, Any] | None = None
) -> Codes:
    """The codes of `function` for all input codes `low` .. `low` + 255; int32 of shape (256,).

    The bounds of a Clip are the limits of `out`.

    Raises:
        BadOption: there is no such function.
    """
    if function not in FUNCTIONS:
        raise BadOption(f"There is no table of '{function}'; there are {', '.join(FUNCTIONS)}.")
    x = (np.arange(low, low + 256) - given.zero_point) * np.float64(np.float32(given.scale))
    y = FUNCTIONS[function](x, attributes or {}) / np.float64(np.float32(out.affine.scale))
    wide = np.rint(np.clip(y, -(2.0**31), 2.0**31)) + out.affine.zero_point
    return np.asarray(np.clip(wide, out.low, out.high), np.int32)


def look_up(codes: AnyCodes, table: Codes, low: int = -128) -> Codes:
    """The entries of `table` that stand for `codes`, which start at `low`; int32."""
    return np.asarray(table[codes.astype(np.int64) - low], np.int32)


def exponentials(scale: float) -> npt.NDArray[np.int64]:
    """E[d], the exponential of each distance 0..255 from the largest code; int64, at most 2**23."""
    x = np.maximum(-np.arange(256) * np.float64(np.float32(scale)), -700.0)
    return np.asarray(np.rint(np.ldexp(exp(x), EXP_BITS)), np.int64)


def softmax_multiplier(out_scale: float, length: int) -> Multiplier:
    """1 / sy as m and s.

    Raises:
        BadOption: a sum over `length` codes would not fit 63 bits.
    """
    by = litert_multiplier(1.0 / np.float64(np.float32(out_scale)), single_rounding=True)
    if (length << EXP_BITS) << int(by.shift) >= 1 << SOFTMAX_BITS:
        raise BadOption(f"Softmax over {length} codes with an output scale of {out_scale:.3g} needs over 63 bits.")
    return by


def softmax(x: AnyCodes, axis: int, given: Affine, out: Output) -> Codes:
    """Codes of the softmax of `x` along `axis`; int32.

    Raises:
        BadOption: as `softmax_multiplier`.
    """
    by = softmax_multiplier(out.affine.scale, x.shape[axis])
    wide = x.astype(np.int64)
    e = exponentials(given.scale)[wide.max(axis, keepdims=True) - wide]
    total = e.sum(axis, keepdims=True)
    s = int(by.shift)
    codes = (e * int(by.mantissa) + (total << (s - 1))) // (total << s)
    return np.asarray(np.clip(codes + out.affine.zero_point, out.low, out.high), np.int32)
