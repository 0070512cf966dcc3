"""Softmax of codes by a table of exponentials, as ONNX Runtime's QLinearSoftmax does it.

    table[i] = float32(e^((i - 255 + shift) sx))     in float64, i = 0 .. 255
    shift    = max(0, float32(ln(float32(FLT_MAX / D))) - 5) / sx
    e        = table[255 - (largest code - code)]     D: the number of classes
    sum      = of e, in float32, from the first class to the last
    code     = clip(half_even(f32(f32(e * floor(f32(1 / sy))) / sum)) + zy)

The scale of the output counts only as the whole number floor(1 / sy): with sy near 1/256 it is 256, and with a scale
above 1 it is 0 and so is the result. With D = 1 the product overflows: `overflow` is the int32 that the processor makes
of it, -2**31 on x86, 2**31 - 1 on Arm. The zero point is added in 32 bits; int8 then saturates, uint8 is cut at 255 and
keeps the low byte. Source: onnxruntime/contrib_ops/cpu/quantization/qlinear_softmax.cc.
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.requant import Codes
from halfeven.numerics.shifts import wrap

Floats = npt.NDArray[np.float32]


def exponential_table(scale: float, classes: int) -> Floats:
    """The exponentials of distances from the largest code, float32 of shape (256,), as large as their sum may be."""
    step = np.float64(np.float32(scale))
    most = np.finfo(np.float32).max / np.float32(classes)
    shift = max(0.0, float(np.float32(np.log(np.float64(most)))) - 5) / step
    return np.exp((np.arange(256) - 255 + shift) * step).astype(np.float32)


X86_OVERFLOW, ARM_OVERFLOW = -(1 << 31), (1 << 31) - 1


def integer_softmax(x: AnyCodes, axis: int, given: Affine, out: Output, overflow: int = X86_OVERFLOW) -> Codes:
    """Codes of the softmax of 8-bit codes `x` along `axis`; int32."""
    codes = np.moveaxis(x.astype(np.int64), axis, -1)
    classes = codes.shape[-1]
    e = exponential_table(given.scale, classes)[255 - (codes.max(-1, keepdims=True) - codes)]
    total = np.zeros(e.shape[:-1], np.float32)
    for k in range(classes):
        total += e[..., k]
    levels = np.floor(np.float32(1) / np.float32(out.affine.scale))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.rint(e * levels / total[..., None])
    whole = np.where(np.isfinite(share), share, overflow).astype(np.int64)
    placed = wrap(whole + out.affine.zero_point, 32)
    low = np.minimum(placed, out.high) & 255 if out.low == 0 else placed
    made = np.clip(low, out.low, out.high).astype(np.int32)
    return np.moveaxis(made, -1, axis)
