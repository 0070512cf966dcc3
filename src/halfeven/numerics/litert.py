"""LiteRT's operators on int8 codes beyond `requant` and `elementwise`: slopes, means, tables, softmax, limits.

With sx, zx of the input, sy, zy of the output, float32 scales, and `rescale` one of `Requant`'s ways:

    limits of a clamp     LiteRT   zy + half_away(f32(bound / sy));   XNNPACK  half_even(f32(f32(bound / sy) + zy))
    LeakyRelu             rescale(x - zx, M) + zy with M = f32(sx / sy) from zx on, f32(f32(sx alpha) / sy) below;
                          LiteRT double_rounding, XNNPACK q8_8
    AveragePool           half_away(sum / count) of the codes themselves: both ends have one scale
    mean over axes        of n codes with the sum S of codes
        reference         m, r of double_rounding for sx / sy; h = min(floor(log2 n), 32, 31 - r);
                          the multiplier (m << h) / n, truncated, and the shift r + h, of S - n zx
        optimized         height and width of a picture alone: neon (the last C % 16 channels double_rounding) of S by
                          f32(sx / f32(n sy)), plus zy - trunc(f32(f32(zx sx) / sy) +- 1/2)
        xnnpack           half_even(f32(f32(S - n zx) * f32(f32(sx / sy) * f32(1 / n))))
    Sigmoid, Tanh         256 codes: v = f(f32(sx (q - zx))) in float32;  LiteRT half_away(f32(v f32(1 / sy))) + zy,
                          XNNPACK half_even(f32(v f32(1 / sy))) + zy
    Softmax               optimized, xnnpack: e[d] = f32(exp(f32(-sx d))), d = (largest code) - code; E their float32
                          sum in order; half_away(f32(e f32(1 / f32(E sy)))) + zy;  reference: `gemmlowp_softmax`

Sources: LiteRT tflite/kernels/activations.cc, reduce.cc, kernel_util.cc, internal/reference/integer_ops/*.h,
internal/optimized/integer_ops/mean.h; XNNPACK src/reference/unary-elementwise.cc, src/operators/reduce-nd.c.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.multiplier import litert_multiplier
from halfeven.numerics.requant import Codes, Requant, requantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import Integers, high_multiply, rounding_shift, shift_left

Floats = npt.NDArray[np.float32]
BLOCK = 16


class Kernels(StrEnum):
    """Names a set of kernels."""

    REFERENCE = "reference"
    OPTIMIZED = "optimized"
    XNNPACK = "xnnpack"


def clamped(out: Output, bounds: tuple[float, float], kernels: Kernels) -> Output:
    """`out` with the limits that a fused activation's bounds become."""
    ends = np.array(bounds, np.float32) / np.float32(out.affine.scale)
    if kernels is Kernels.XNNPACK:
        codes = np.rint(ends + np.float32(out.affine.zero_point))
    else:
        codes = Rounding.HALF_AWAY(ends) + out.affine.zero_point
    low, high = (int(code) for code in np.clip(codes, out.low, out.high))
    return Output(out.affine, low, high)


def leaky_relu(x: AnyCodes, alpha: float, given: Affine, out: Output, flavour: Requant) -> Codes:
    """Codes of LeakyRelu; int32."""
    sx, sy = np.float32(given.scale), np.float32(out.affine.scale)
    offsets = x.astype(np.int64) - given.zero_point
    ways = [
        requantize(offsets, m, out.affine.zero_point, out.low, out.high, flavour)
        for m in (sx / sy, sx * np.float32(alpha) / sy)
    ]
    return np.where(offsets >= 0, *ways)


def average(sums: Integers, counts: npt.ArrayLike, out: Output) -> Codes:
    """Codes of the means of codes, from sums of `counts` codes each; int32."""
    n = np.asarray(counts, np.int64)
    away = np.sign(sums) * ((np.abs(sums) + n // 2) // n)
    return np.asarray(np.clip(away, out.low, out.high), np.int32)


def mean(sums: Integers, count: int, given: Affine, out: Output, kernels: Kernels) -> Codes:
    """Codes of means over `count` codes, from their sums; int32. `OPTIMIZED` wants the channels last.

    Raises:
        BadOption: the ratio of the scales is none the kernel can hold.
    """
    sx, sy, n = np.float32(given.scale), np.float32(out.affine.scale), np.float32(count)
    offsets = sums - count * given.zero_point
    if kernels is Kernels.XNNPACK:
        m = np.float32(sx / np.float32(n * sy))
        return requantize(offsets, m, out.affine.zero_point, out.low, out.high, Requant.FLOAT32_INSIDE)
    if kernels is Kernels.OPTIMIZED:
        shifted = np.float32(np.float32(given.zero_point) * sx) / sy
        moved = out.affine.zero_point - int(np.trunc(shifted + np.copysign(np.float32(0.5), shifted)))
        m, cut = np.float32(sx / np.float32(n * sy)), sums.shape[-1] // BLOCK * BLOCK
        parts = ((sums[..., :cut], Requant.NEON), (sums[..., cut:], Requant.DOUBLE_ROUNDING))
        return np.concatenate([requantize(part, m, moved, out.low, out.high, way) for part, way in parts], -1)
    by = litert_multiplier(np.float64(sx) / np.float64(sy))
    right = int(by.shift) - 31
    more = min(count.bit_length() - 1, 32, 31 - right)
    mantissa = np.asarray((int(by.mantissa) << more) // count, np.int64)
    left, right = max(-(right + more), 0), max(right + more, 0)
    scaled = rounding_shift(high_multiply(shift_left(offsets, left), mantissa), right, Rounding.HALF_AWAY)
    return np.clip(scaled + out.affine.zero_point, out.low, out.high).astype(np.int32)


def add_floored(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of the sum of `a` and `b` in the optimized kernels; int32."""
    sa, sb, sc = (np.float64(np.float32(given.scale)) for given in (in_a, in_b, out.affine))
    largest = 2 * max(sa, sb)
    total = np.zeros((), np.int64)
    for codes, given, scale in ((a, in_a, sa), (b, in_b, sb)):
        by = litert_multiplier(scale / largest)
        product = high_multiply((codes.astype(np.int64) - given.zero_point) << 20, by.mantissa)
        total = np.asarray(total + rounding_shift(product, by.shift - 31, Rounding.FLOOR), np.int64)
    m = largest / (2.0**20 * sc)
    return requantize(total, m, out.affine.zero_point, out.low, out.high, Requant.DOUBLE_ROUNDING)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # an infinite exponential gives 0, as it does there
        return np.float32(1) / (np.float32(1) + np.exp(-x.astype(np.float64)).astype(np.float32))


def _sigmoid_by_quotient(x: Floats) -> Floats:
    e = np.exp(np.clip(x.astype(np.float64), -100, 100))
    return np.asarray(e / (1 + e), np.float32)


def _tanh(x: Floats) -> Floats:
    return np.tanh(x.astype(np.float64)).astype(np.float32)


FUNCTIONS: Mapping[str, Mapping[bool, Callable[[Floats], Floats]]] = {
    "Sigmoid": {False: _sigmoid, True: _sigmoid_by_quotient},
    "Tanh": {False: _tanh, True: _tanh},
}
"""By ONNX operator, and whether XNNPACK's is meant."""


def table(function: str, given: Affine, out: Output, kernels: Kernels) -> Codes:
    """The codes of `function` for the input codes -128..127; int32."""
    xnnpack = kernels is Kernels.XNNPACK
    x = np.float32(given.scale) * np.arange(-128 - given.zero_point, 128 - given.zero_point).astype(np.float32)
    scaled = FUNCTIONS[function][xnnpack](x) * (np.float32(1) / np.float32(out.affine.scale))
    rounded = np.rint(scaled) if xnnpack else Rounding.HALF_AWAY(scaled)
    return np.clip(rounded + out.affine.zero_point, out.low, out.high).astype(np.int32)


def softmax(x: AnyCodes, given: Affine, out: Output) -> Codes:
    """Codes of the softmax of int8 `x` along its last axis, in float32; int32."""
    wide = x.astype(np.int64)
    steps = np.float32(-given.scale) * np.arange(256, dtype=np.float32)
    e = np.exp(steps.astype(np.float64)).astype(np.float32)[wide.max(-1, keepdims=True) - wide]
    total = np.add.accumulate(e, -1, dtype=np.float32)[..., -1:]
    scaled = e * (np.float32(1) / (total * np.float32(out.affine.scale)))
    return np.clip(Rounding.HALF_AWAY(scaled) + out.affine.zero_point, out.low, out.high).astype(np.int32)


# --------------------------------------------------------------------- softmax in fixed point, by gemmlowp's functions

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
_INPUT_BITS, _SUM_BITS = 26, 19  # fractional bits of a difference (Q5.26) and of the sum of exponentials (Q12.19)


def _multiplied(a: Integers, b: Integers | int) -> Integers:
    return high_multiply(np.asarray(a, np.int64), np.asarray(b, np.int64))


def _fixed_exponential(x: Integers) -> Integers:
    """e^x of 31 fractional bits, for x <= 0 of `_INPUT_BITS`: a polynomial around -1/8, then factors by bits of x."""
    quarter = 1 << (_INPUT_BITS - 2)
    rest = (x & (quarter - 1)) - quarter
    near = (rest << (31 - _INPUT_BITS)) + (1 << 28)
    square = _multiplied(near, near)
    fourth = _multiplied(square, square)
    third = _multiplied(square, near)
    term = rounding_shift(_multiplied(rounding_shift(fourth, 2, Rounding.HALF_AWAY) + third, 715827883) + square, 1,
                          Rounding.HALF_AWAY)  # fmt: skip
    found = 1895147668 + _multiplied(near + term, 1895147668)
    for power, factor in _EXPONENTIALS:
        found = np.where((rest - x) & (1 << (_INPUT_BITS + power)), _multiplied(found, factor), found)
    return np.where(x == 0, (1 << 31) - 1, found)


def _reciprocal(x: Integers) -> Integers:
    """1 / (1 + x) of 31 fractional bits, for 0 <= x < 1 of 31: three steps of Newton's from 48/17 - 32/17 d."""
    half = _half_sum(x, (1 << 31) - 1)
    found = 1515870810 + _multiplied(half, -1010580540)
    for _ in range(3):
        missing = (1 << 29) - _multiplied(half, found)
        found = found + np.clip(_multiplied(found, missing) << 2, -(1 << 31), (1 << 31) - 1)
    return np.asarray(np.clip(found << 1, -(1 << 31), (1 << 31) - 1), np.int64)


def _half_sum(a: Integers, b: int) -> Integers:
    """(a + b) / 2, half_away."""
    return rounding_shift(a + b, 1, Rounding.HALF_AWAY)


def gemmlowp_softmax(x: AnyCodes, given: Affine, out: Output) -> Codes:
    """Codes of the softmax of int8 `x` along its last axis, in fixed point; int32. The output's scale is 1/256.

    m, l = multiplier of min(sx 2**26, 2**31 - 1); differences of codes below -floor(31 2**26 / 2**l) count nothing.

    Raises:
        BadOption: the sum of exponentials reaches 512, where the runtime ends its process.
    """
    by = litert_multiplier(min(np.float64(np.float32(given.scale)) * (1 << _INPUT_BITS), 2.0**31 - 1))
    left = 31 - int(by.shift)
    least = -int(np.floor(31.0 * (1 << _INPUT_BITS) / (1 << left)))
    wide = x.astype(np.int64)
    difference = wide - wide.max(-1, keepdims=True)
    counted = difference >= least
    kept = np.where(counted, difference, 0)
    e = _fixed_exponential(high_multiply(kept << left, np.asarray(by.mantissa, np.int64)))
    parts = rounding_shift(e, 31 - _SUM_BITS, Rounding.HALF_AWAY)
    total = np.where(counted, parts, 0).sum(-1, keepdims=True)
    if (total >> 28).any():
        raise BadOption(f"Softmax over {x.shape[-1]} codes: LiteRT's reference kernel fails on a sum of 512 and more.")
    leading = 32 - np.vectorize(int.bit_length, otypes=[np.int64])(total.astype(object))
    scale = _reciprocal((total << leading) - (1 << 31))
    codes = rounding_shift(_multiplied(scale, e), 12 - leading + 31 - 8, Rounding.HALF_AWAY) + out.low
    return np.where(counted, np.clip(codes, out.low, out.high), out.low).astype(np.int32)
