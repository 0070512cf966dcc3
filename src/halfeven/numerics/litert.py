"""LiteRT's operators on int8 codes beyond `requant` and `elementwise`: slopes, means, tables, softmax, limits.

With sx, zx of the input, sy, zy of the output, float32 scales, and `rescale` one of `Requant`'s ways:

    limits of a clamp     LiteRT   zy + half_away(f32(bound / sy));   XNNPACK  half_even(f32(f32(bound / sy) + zy))
    LeakyRelu             rescale(x - zx, M) + zy with M = f32(sx / sy) from zx on, f32(f32(sx alpha) / sy) below;
                          LiteRT double_rounding, XNNPACK q8_8; Micro double_rounding with both M in float64
    Add in a block        of the optimized kernels: with t = 2 max(sa, sb), m and e of sa / t: high_multiply(da << (20 +
                          e), m), where one operand is one number floor(high_multiply(da << 20, m) 2**e); likewise of
                          b; their sum by t / (2**20 sy), double_rounding, of which the low 16 bits are kept
    Mul in a block        of the optimized kernels: double_rounding, saturated to 16 bits
        both              then the zero point is added in 16 bits, which wrap, and the limits of the clamp hold
    Dequantize            optimized: blocks of 8 f32(f32(q sx) + f32(-zx sx)), on Arm64 fma(q, sx, f32(-zx sx)); the
                          rest, and elsewhere, f32((q - zx) sx)
    MatMul of two values  double_rounding with M = f64(f32(sa sb)) / f64(sy), Micro f64 throughout; XNNPACK only where
                          zb is 0, as a layer. That M has FullyConnected with one scale in the optimized kernels too
    Relu                  double_rounding with M = f32(sx / sy), Micro f64
    AveragePool           half_away(sum / count) of the codes themselves: both ends have one scale
    mean over axes        of n codes with the sum S of codes
        reference         m, r of double_rounding for sx / sy; h = min(floor(log2 n), 32, 31 - r);
                          the multiplier (m << h) / n, truncated, and the shift r + h, of S - n zx
        optimized         height and width of a picture alone: neon (the last C % 16 channels double_rounding) of S by
                          f32(sx / f32(n sy)), plus zy - trunc(f32(f32(zx sx) / sy) +- 1/2)
        xnnpack           half_even(f32(f32(f32(S) m) + f32(zy - f32(f32(n zx) m)))), m = f32(f32(sx / sy) f32(1 / n));
                          on Arm64 half_even(fma(S, m, fma(-n zx, m, zy)))
    Sigmoid, Tanh         256 codes: v = f(f32(sx (q - zx))) in float32;  LiteRT half_away(f32(v f32(1 / sy))) + zy,
                          XNNPACK half_even(f32(v f32(1 / sy))) + zy
    Softmax on Arm64      optimized, xnnpack: e[d] = min(trunc(f32(f32(exp(f32(-sx d))) 65535) + 1/2), 65535), S their
                          sum; M = f32(1 / f32(f32(S) sy)); rescale(e, M) + zy: blocks of 16 neon, the rest
                          double_rounding
    Softmax elsewhere     optimized, xnnpack: e[d] = f32(exp(f32(-sx d))), d = (largest code) - code; E their float32
                          sum in order; half_away(f32(e f32(1 / f32(E sy)))) + zy;  reference: `gemmlowp`

Sources: LiteRT tflite/kernels/activations.cc, reduce.cc, kernel_util.cc, internal/reference/integer_ops/*.h,
internal/optimized/integer_ops/add.h, mul.h, mean.h; XNNPACK src/reference/unary-elementwise.cc,
src/operators/reduce-nd.c; TensorFlow Lite Micro kernels/leaky_relu_common.cc.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.fused import fma
from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.multiplier import Multiplier, float_multiplier, litert_multiplier, real_multiplier
from halfeven.numerics.requant import Codes, Requant, requantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import Integers, high_multiply, rounding_shift, shift_left, wrap

Floats = npt.NDArray[np.float32]
BLOCK = 16
SUM_BITS, SUM_BITS_16 = 20, 15


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


def product_multiplier(a: npt.ArrayLike, b: npt.ArrayLike, out: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """M of BATCH_MATMUL and of FULLY_CONNECTED: the product in float32, the quotient in float64.

    With several scales in `b` all is in float64, as elsewhere.
    """
    if np.size(b) > 1:
        return real_multiplier(a, b, out)
    product = np.asarray(a, np.float32) * np.asarray(b, np.float32)
    return np.asarray(product.astype(np.float64) / np.asarray(out, np.float64), np.float64)


def leaky_relu(x: AnyCodes, alpha: float, given: Affine, out: Output, flavour: Requant, wide: bool = False) -> Codes:
    """Codes of LeakyRelu; int32. `wide`: multipliers are float64, as in Micro."""
    real = np.float64 if wide else np.float32
    sx, sy = real(np.float32(given.scale)), real(np.float32(out.affine.scale))
    offsets = x.astype(np.int64) - given.zero_point
    ways = [
        requantize(offsets, m, out.affine.zero_point, out.low, out.high, flavour)
        for m in (sx / sy, sx * real(np.float32(alpha)) / sy)
    ]
    return np.where(offsets >= 0, *ways)


def average(sums: Integers, counts: npt.ArrayLike, out: Output) -> Codes:
    """Codes of the means of codes, from sums of `counts` codes each; int32."""
    n = np.asarray(counts, np.int64)
    away = np.sign(sums) * ((np.abs(sums) + n // 2) // n)
    return np.asarray(np.clip(away, out.low, out.high), np.int32)


def mean(sums: Integers, count: int, given: Affine, out: Output, kernels: Kernels, fused: bool = False) -> Codes:
    """Codes of means over `count` codes, from their sums; int32. `OPTIMIZED` wants the channels last.

    `fused`: XNNPACK as compiled for Arm64, where a product and a sum round once.

    Raises:
        BadOption: the ratio of the scales is none the kernel can hold.
    """
    sx, sy, n = np.float32(given.scale), np.float32(out.affine.scale), np.float32(count)
    offsets = sums - count * given.zero_point
    if kernels is Kernels.XNNPACK:
        m = np.float32(sx / sy) * np.float32(np.float32(1) / n)
        zero, shift = np.float32(out.affine.zero_point), np.float32(count * given.zero_point)
        bias = fma(-shift, m, zero) if fused else zero - shift * m
        wide = sums.astype(np.float32)
        total = fma(wide, m, bias) if fused else wide * m + bias
        return np.clip(np.rint(total), out.low, out.high).astype(np.int32)
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


def dequantize(codes: AnyCodes, given: Affine, fused: bool) -> Floats:
    """Real numbers of int8 codes in the optimized kernels, in the order of the file. `fused`: as compiled for Arm64."""
    scale, cut = np.float32(given.scale), codes.size // 8 * 8
    shift = np.float32(-given.zero_point * np.float64(scale))
    flat = codes.ravel().astype(np.float32)
    body = fma(flat[:cut], scale, shift) if fused else flat[:cut] * scale + shift
    rest = (flat[cut:] - np.float32(given.zero_point)) * scale
    return np.concatenate([body, rest]).reshape(codes.shape).astype(np.float32)


def add_in_block(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of the sum of `a` and `b` in a block of the optimized kernels; int32."""
    return _in_16_bits(wrap(_block_sum(a, b, in_a, in_b, out, _shifted_first), 16), out)


def add_in_block_16(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of the sum of int16 `a` and `b` in a block of the optimized kernels; int32."""
    found = _block_sum(a, b, in_a, in_b, out, _shifted_first, SUM_BITS_16)
    return np.clip(found, out.low, out.high).astype(np.int32)


def add_floored(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of the sum of `a` and `b`, of which one is one number, in a block of the optimized kernels; int32."""
    return _in_16_bits(wrap(_block_sum(a, b, in_a, in_b, out, _floored), 16), out)


def multiply_in_block(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of the product of `a` and `b` in a block of the optimized kernels; int32."""
    product = (a.astype(np.int64) - in_a.zero_point) * (b.astype(np.int64) - in_b.zero_point)
    m = float_multiplier(in_a.scale, in_b.scale, out.affine.scale)
    return _in_16_bits(requantize(product, m, 0, -(1 << 15), (1 << 15) - 1, Requant.DOUBLE_ROUNDING), out)


def _shifted_first(offsets: Integers, by: Multiplier, bits: int) -> Integers:
    left = bits + 31 - int(by.shift)
    return high_multiply(shift_left(offsets, left) if left >= 0 else offsets >> -left, by.mantissa)


def _floored(offsets: Integers, by: Multiplier, bits: int) -> Integers:
    return rounding_shift(high_multiply(offsets << bits, by.mantissa), by.shift - 31, Rounding.FLOOR)


def _block_sum(
    a: AnyCodes,
    b: AnyCodes,
    in_a: Affine,
    in_b: Affine,
    out: Output,
    scaled: Callable[[Integers, Multiplier, int], Integers],
    bits: int = SUM_BITS,
) -> Integers:
    sa, sb, sc = (np.float64(np.float32(given.scale)) for given in (in_a, in_b, out.affine))
    largest = 2 * max(sa, sb)
    total = np.zeros((), np.int64)
    for codes, given, scale in ((a, in_a, sa), (b, in_b, sb)):
        part = scaled(codes.astype(np.int64) - given.zero_point, litert_multiplier(scale / largest), bits)
        total = np.asarray(total + part, np.int64)
    m = largest / (2.0**bits * sc)
    return requantize(total, m, 0, -(1 << 31), (1 << 31) - 1, Requant.DOUBLE_ROUNDING).astype(np.int64)


def _in_16_bits(scaled: npt.NDArray[np.integer], out: Output) -> Codes:
    total = wrap(scaled.astype(np.int64) + out.affine.zero_point, 16)
    return np.clip(total, out.low, out.high).astype(np.int32)


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


def softmax_16(x: AnyCodes, given: Affine, out: Output) -> Codes:
    """Codes of the softmax of int8 `x` along its last axis by exponentials of 16 bits; int32."""
    wide = x.astype(np.int64)
    steps = np.float32(given.scale) * np.arange(0, -256, -1).astype(np.float32)
    scaled = np.exp(steps.astype(np.float64)).astype(np.float32) * np.float32(65535)
    exponentials = np.minimum(scaled.astype(np.float64) + 0.5, 65535).astype(np.int64)
    e = exponentials[wide.max(-1, keepdims=True) - wide]
    m = np.float32(1) / (e.sum(-1, keepdims=True).astype(np.float32) * np.float32(out.affine.scale))
    cut = e.shape[-1] // BLOCK * BLOCK
    parts = ((e[..., :cut], Requant.NEON), (e[..., cut:], Requant.DOUBLE_ROUNDING))
    codes = [requantize(part, m, out.affine.zero_point, out.low, out.high, way) for part, way in parts]
    return np.concatenate(codes, -1)
