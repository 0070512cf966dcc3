"""ncnn's int8 layers: from an int32 sum to a real number, and from there to a code.

    p = f32(s_in s_w), a = f32(acc)                s are ncnn's scales, reciprocals of ours

    scaling        real number                     used by
    fused          fma(a, f32(1 / p), bias)        Convolution; some depthwise kernels
    separate       f32(a f32(1 / p)) + bias        InnerProduct; some depthwise kernels
    divided        f32(a / p) + bias               depthwise on Arm64
    approximate    f32(a rcp(p)) + bias            depthwise on x86 of channels that are a multiple of 8

    code = clip(half_away(f32(real s_out)), -127, 127)

Fused sums behind which Arm64 has a Relu are folded where codes follow, the scale of the output joins the factors:

    code = clip(half_away(max(fma(a, f32(f32(1 / p) s_out), f32(bias s_out)), 0)), -127, 127)

`rcp` is RCPPS, the processor's approximate reciprocal. On Intel's processors that is a table of 2048 entries: of
x = m 2**e, 1 <= m < 2, the first 11 bits of m's fraction, i, name an interval, and

    rcp(x) = half_even(2**13 / (1 + (i + 1/2) / 2048)) 2**-13 2**-e

off from 1 / x by 2**-11.9 at most; infinite for what is less than 2**-126, zero where the result would be. AMD's tables
are others.

Sources: ncnn 20261020 src/layer/{x86,arm}/{convolution,convolutiondepthwise,innerproduct}_*.cpp, measured; RCPPS read
out for all 2**23 significands on an Intel Xeon (Sapphire Rapids): no entry differs.
"""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.numerics.fused import Floats32, fma

ONE = np.float32(1)
_ENTRIES = np.rint(2.0**13 / (1 + (np.arange(2048) + 0.5) / 2048)) * 2.0**-13


class Scaling(StrEnum):
    """Names a way from a sum to a real number. The table above is its definition."""

    FUSED = "fused"
    SEPARATE = "separate"
    DIVIDED = "divided"
    APPROXIMATE = "approximate"


def intel_reciprocal(x: npt.ArrayLike) -> Floats32:
    """RCPPS of positive float32 numbers on Intel's processors; float32 of their shape."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    exponent = (bits >> 23).astype(np.int32) - 127
    with np.errstate(over="ignore", under="ignore"):
        found = np.asarray(np.ldexp(_ENTRIES[(bits >> 12) & 2047], -exponent), np.float32)
    return np.where(exponent == -127, np.inf, np.where(found < 2.0**-126, 0, found)).astype(np.float32)


def reciprocals(scale: npt.ArrayLike) -> Floats32:
    """The scales that ncnn has for ours, flat."""
    return np.asarray(np.float32(1) / np.asarray(scale, np.float32).ravel(), np.float32)


def real_sums(
    acc: npt.NDArray[np.int32],
    input_scale: npt.ArrayLike,
    weight_scales: npt.ArrayLike,
    bias: Floats32 | None,
    scaling: Scaling,
    output_scale: np.float32 = ONE,
) -> Floats32:
    """The real numbers that int32 sums stand for, float32. The scales are ncnn's; all broadcast against the sums.

    With `output_scale` fused sums are times that scale, as those of folded layers.
    """
    wide = acc.astype(np.float32)
    product = np.asarray(np.asarray(input_scale, np.float32) * np.asarray(weight_scales, np.float32), np.float32)
    added = np.zeros(1, np.float32) if bias is None else bias
    match scaling:
        case Scaling.DIVIDED:
            return np.asarray(wide / product + added, np.float32)
        case Scaling.APPROXIMATE:
            return np.asarray(wide * intel_reciprocal(product) + added, np.float32)
        case Scaling.SEPARATE:
            return np.asarray(wide * (np.float32(1) / product) + added, np.float32)
    factor = np.asarray(np.float32(1) / product * output_scale, np.float32)
    return np.asarray(wide * factor, np.float32) if bias is None else fma(wide, factor, bias * output_scale)
