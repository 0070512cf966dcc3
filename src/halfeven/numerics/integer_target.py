"""The arithmetic of the `integer` target: what generated C computes, operator by operator, without a float at run time.

Codes are int8 with one scale and zero point, weights int8 with one scale for each output channel and zero point 0,
biases and accumulators int32 (two's complement, modulo 2**32). A real multiplier M, known before any data, becomes
m * 2**-s with m in [2**30, 2**31) (`multiplier.litert_multiplier`, one rounding), and

    rescale(acc, M) = clip(floor((acc * m + 2**(s-1)) / 2**s) + zy, low, high)      one rounding, half_up, in 64 bits

with low and high of the type, or of a fused Relu or Clip: the codes that the bounds become (half to even). The
operators, with da = a - za the offset of a code:

    Conv, ConvTranspose, Gemm, MatMul     rescale(sum da dw + bias, sa sw / sy)         M for each channel
    Mul                                   rescale(da db, sa sb / sy)
    Add, Sub                              (da A +- db B + 2**(n-1)) >> n, + zy, clip;   A = half_even(ra 2**n),
                                          ra = float32(sa / sy), n = 20 - floor(log2(max(ra, rb))), at most 62: the
                                          larger ratio keeps 21 bits, so the sum fits 32 (XNNPACK's, `elementwise.add`)
    AveragePool, GlobalAveragePool,       rescale(sum da, sa / (n sy)): 1/n is part of M; a pad adds nothing, and counts
    ReduceMean                            if count_include_pad
    PRelu                                 rescale(da, sa / sy) where da >= 0, else rescale(da ds, sa ss / sy)
    MaxPool                               the largest code; pads never win
    functions of one number               256 codes, see `code_tables`; Softmax too is there
    operators that move codes             move codes; a pad is zy, or half_even(value / sy) + zy, clipped

Multipliers are formed in float64 from float32 scales, (sa * sw) / sy, left to right. ONNX's MatMul adds no bias.

Sources: Jacob et al. 2018, arXiv:1712.05877, equations 4 to 7; XNNPACK src/microparams-init.c (qs8 add).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_ops import AnyCodes, conv2d, matmul
from halfeven.numerics.multiplier import Multiplier, litert_multiplier, real_multiplier
from halfeven.numerics.quantize import quantize
from halfeven.numerics.requant import Codes, Requant, requantize
from halfeven.numerics.scheme import QParams
from halfeven.numerics.shifts import Integers, rounding_shift, wrap
from halfeven.numerics.windows import Window

SUM_BITS = 20
MOST_SUM_SHIFT = 62
Clamp = tuple[float, float] | None


def affine_of(params: QParams) -> Affine:
    """Scale and zero point of codes that share one.

    Raises:
        BadOption: they have several.
    """
    if params.scale.size != 1:
        raise BadOption(f"One scale for all codes was expected, found {params.scale.size}.")
    return Affine(float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0]))


def output_of(params: QParams, clamp: Clamp = None) -> Output:
    """What codes are stored as, their limits narrowed to what real bounds become."""
    grid = params.scheme.grid
    low, high = grid.low, grid.high
    if clamp is not None:
        low, high = (int(code) for code in quantize(np.array(clamp, np.float32), _flat(params)))
    return Output(affine_of(params), low, high)


def _flat(params: QParams) -> QParams:
    return QParams(params.scheme, params.scale.reshape(1), params.zero_point.reshape(1))


def fixed_multiplier(real: npt.ArrayLike) -> Multiplier:
    """M as m and s, m = 0 or 2**30 <= m < 2**31, 1 <= s <= 62: what a device stores."""
    return litert_multiplier(real, single_rounding=True)


def rescale(acc: Integers, real: npt.ArrayLike, out: Output) -> Codes:
    """Codes of accumulators times `real`, which broadcasts; int32."""
    return requantize(acc, real, out.affine.zero_point, out.low, out.high, Requant.SINGLE_ROUNDING)


def convolve(
    x: AnyCodes,
    weight: AnyCodes,
    bias: npt.ArrayLike,
    given: Affine,
    weight_scale: npt.ArrayLike,
    out: Output,
    window: Window,
    groups: int = 1,
) -> Codes:
    """Conv of codes `x` (N, C, W) or (N, C, H, W) with `weight` (O, C / groups, ...), `bias` (O,) or 0.

    `weight_scale` has one element, or one for each output channel.
    """
    flat = x.ndim == 3
    x4, w4 = (x[:, :, None], weight[:, :, None]) if flat else (x, weight)
    two = window.as_2d()
    acc = conv2d(x4, w4, given.zero_point, 0, bias, two.strides, two.pads, two.dilations, groups)
    codes = rescale(acc, _channels(given, weight_scale, out, 4), out)
    return codes[:, :, 0] if flat else codes


def convolve_transposed(
    x: AnyCodes,
    weight: AnyCodes,
    bias: npt.ArrayLike,
    given: Affine,
    weight_scale: npt.ArrayLike,
    out: Output,
    window: Window,
    size: Sequence[int],
    groups: int = 1,
) -> Codes:
    """ConvTranspose of codes `x` (N, C, ...) with `weight` (C, O / groups, ...); `size`: spatial axes of the output."""
    flat = x.ndim == 3
    x4, w4 = (x[:, :, None], weight[:, :, None]) if flat else (x, weight)
    two, (height, width) = window.as_2d(), ((1, *size) if flat else tuple(size))
    n, channels, rows, columns = x4.shape
    made = w4.shape[1]
    dx = (x4.astype(np.int64) - given.zero_point).reshape(n, groups, channels // groups, -1)
    w = w4.astype(np.int64).reshape(groups, channels // groups, -1)
    parts = (w.transpose(0, 2, 1) @ dx).reshape(n, groups, made, *two.kernel, rows, columns)
    reach = [(k - 1) * d for k, d in zip(two.kernel, two.dilations, strict=True)]
    canvas = np.zeros(
        (
            n,
            groups,
            made,
            max((rows - 1) * two.strides[0] + reach[0] + 1, two.pads[0] + height),
            max((columns - 1) * two.strides[1] + reach[1] + 1, two.pads[1] + width),
        ),
        np.int64,
    )
    for r, s in np.ndindex(*two.kernel):
        top, left = r * two.dilations[0], s * two.dilations[1]
        down, right = (
            slice(top, top + (rows - 1) * two.strides[0] + 1),
            slice(left, left + (columns - 1) * two.strides[1] + 1),
        )
        canvas[:, :, :, down, right][..., :: two.strides[0], :: two.strides[1]] += parts[:, :, :, r, s]
    seen = canvas[..., two.pads[0] : two.pads[0] + height, two.pads[1] : two.pads[1] + width]
    added = np.broadcast_to(np.asarray(bias, np.int64), (groups * made,)).reshape(-1, 1, 1)
    acc = wrap(seen.reshape(n, groups * made, height, width) + added, 32)
    codes = rescale(acc, _channels(given, weight_scale, out, 4), out)
    return codes[:, :, 0] if flat else codes


def _channels(given: Affine, weight_scale: npt.ArrayLike, out: Output, rank: int) -> npt.NDArray[np.float64]:
    """M of each output channel, along axis 1 of `rank`."""
    scales = np.asarray(weight_scale, np.float32).ravel()
    return real_multiplier(given.scale, scales, out.affine.scale).reshape((1, -1) + (1,) * (rank - 2))


def multiply_matrices(
    a: AnyCodes,
    b: AnyCodes,
    scale_a: npt.ArrayLike,
    scale_b: npt.ArrayLike,
    out: Output,
    zero_a: int = 0,
    zero_b: int = 0,
    bias: npt.ArrayLike = 0,
) -> Codes:
    """MatMul or Gemm of codes `a` (..., M, K) and `b` (..., K, N); either may be the weight.

    `scale_a` is a scalar or (M, 1), `scale_b` a scalar or (N,), `bias` 0, (N,), or broadcasts against (M, N).
    """
    acc = wrap(matmul(a, b, zero_a, zero_b) + np.asarray(bias, np.int64), 32)
    return rescale(acc, real_multiplier(scale_a, scale_b, out.affine.scale), out)


def sum_multipliers(scale_a: float, scale_b: float, out_scale: float) -> tuple[int, int, int]:
    """A, B and n of Add: integers below or at 2**21, and a shift of 0 to 62.

    Raises:
        BadOption: an input's scale is 2**21 times the output's, or more.
    """
    ratios = np.array([scale_a, scale_b], np.float32) / np.float32(out_scale)
    n = min(SUM_BITS + 1 - int(np.frexp(ratios.max())[1]), MOST_SUM_SHIFT)
    if n < 0:
        raise BadOption(f"An addition's input scales are {ratios} of its output's; below {2 << SUM_BITS} was expected.")
    a, b = np.rint(np.ldexp(ratios.astype(np.float64), n)).astype(np.int64)
    return int(a), int(b), n


def add(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output, sign: int = 1) -> Codes:
    """Codes of `a` + `b`, or with `sign` -1 of `a` - `b`, which broadcast; int32."""
    by_a, by_b, n = sum_multipliers(in_a.scale, in_b.scale, out.affine.scale)
    total = _offsets(a, in_a) * by_a + sign * _offsets(b, in_b) * by_b
    return np.clip(rounding_shift(total, n) + out.affine.zero_point, out.low, out.high).astype(np.int32)


def multiply(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    """Codes of `a` * `b`, which broadcast; int32."""
    product = _offsets(a, in_a) * _offsets(b, in_b)
    return rescale(product, real_multiplier(in_a.scale, in_b.scale, out.affine.scale), out)


def prelu(x: AnyCodes, slope: AnyCodes, given: Affine, of_slope: Affine, out: Output) -> Codes:
    """Codes of `x` where it is positive, else of `slope` * `x`; `slope` broadcasts to `x`; int32."""
    dx = _offsets(x, given)
    steep = rescale(dx * _offsets(slope, of_slope), real_multiplier(given.scale, of_slope.scale, out.affine.scale), out)
    return np.where(dx >= 0, rescale(dx, mean_multiplier(given.scale, 1, out.affine.scale), out), steep)


def mean_multiplier(scale: float, count: npt.ArrayLike, out_scale: float) -> npt.NDArray[np.float64]:
    """M of a mean over `count` elements: sa / (n * sy) in float64."""
    below = np.asarray(count, np.float64) * np.float64(np.float32(out_scale))
    return np.asarray(np.float64(np.float32(scale)) / below, np.float64)


def mean(x: AnyCodes, axes: Sequence[int], given: Affine, out: Output, keepdims: bool = True) -> Codes:
    """Codes of the mean of `x` over `axes` (all if there are none); int32. GlobalAveragePool: axes from 2 on."""
    over = tuple(axes) if len(axes) else tuple(range(x.ndim))
    count = int(np.prod([x.shape[axis] for axis in over]))
    total = _offsets(x, given).sum(axis=over, keepdims=keepdims)
    return rescale(np.asarray(wrap(total, 32), np.int64), mean_multiplier(given.scale, count, out.affine.scale), out)


def average_pool(x: AnyCodes, given: Affine, out: Output, window: Window, include_pads: bool = False) -> Codes:
    """Codes of the means of windows of `x` (N, C, ...), undilated; int32."""
    total = window.gathered(_offsets(x, given), 0).sum(axis=-1)
    number = window.counts(x.shape[2:], include_pads)
    return rescale(total, mean_multiplier(given.scale, number, out.affine.scale), out)


def max_pool(x: AnyCodes, window: Window) -> AnyCodes:
    """The largest code in each window of `x` (N, C, ...), of `x`'s dtype; a pad never wins."""
    return np.asarray(window.gathered(x, np.iinfo(x.dtype).min).max(axis=-1), x.dtype)


def _offsets(codes: AnyCodes, given: Affine) -> Integers:
    return codes.astype(np.int64) - given.zero_point
