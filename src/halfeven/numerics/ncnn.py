"""ncnn's int8 layers: from an int32 sum to a real number, and from there to a code.

    p = f32(s_in s_w), a = f32(acc)                s are ncnn's scales, reciprocals of ours

    scaling        real number                     used by
    fused          fma(a, f32(1 / p), bias)        Convolution; some depthwise kernels
    separate       f32(a f32(1 / p)) + bias        InnerProduct; some depthwise kernels
    divided        f32(a / p) + bias               depthwise on Arm64
    intel, amd     f32(a rcp(p)) + bias            depthwise on x86 of channels that are a multiple of 8

    code = clip(half_away(f32(real s_out)), -127, 127)

Fused sums behind which Arm64 has a Relu are folded where codes follow, the scale of the output joins the factors:

    code = clip(half_away(max(fma(a, f32(f32(1 / p) s_out), f32(bias s_out)), 0)), -127, 127)

`rcp` is RCPPS, the processor's approximate reciprocal, which each vendor has a table of its own for (`rcpps`).

Sources: ncnn 20261020 src/layer/{x86,arm}/{convolution,convolutiondepthwise,innerproduct}_*.cpp, measured.
"""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.numerics.fused import Floats32, fma
from halfeven.numerics.rcpps import amd_reciprocal, intel_reciprocal

ONE = np.float32(1)


class Scaling(StrEnum):
    """Names a way from a sum to a real number. The table above is its definition."""

    FUSED = "fused"
    SEPARATE = "separate"
    DIVIDED = "divided"
    INTEL = "intel"
    AMD = "amd"


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
        case Scaling.INTEL:
            return np.asarray(wide * intel_reciprocal(product) + added, np.float32)
        case Scaling.AMD:
            return np.asarray(wide * amd_reciprocal(product) + added, np.float32)
        case Scaling.SEPARATE:
            return np.asarray(wide * (np.float32(1) / product) + added, np.float32)
    factor = np.asarray(np.float32(1) / product * output_scale, np.float32)
    return np.asarray(wide * factor, np.float32) if bias is None else fma(wide, factor, bias * output_scale)
