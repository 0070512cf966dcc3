"""Quantize, dequantize, and the parameters that fit a range.

    code  = clip(round(x / scale) + zero_point, low, high)          ONNX QuantizeLinear: true division, half to even,
    value = (code - zero_point) * scale                             the zero point added after the rounding

Range to parameters, zero always exact (the range is widened to hold 0), computed in float64, stored as float32:

    affine       scale = (max - min) / (high - low)          zero_point = clip(rint(low - min / scale), low, high)
    symmetric    scale = max(|min|, |max|) / high            zero_point = 0

The symmetric scale divides by `high` = 127 on int8, full or narrow, so that +absmax is a code (TensorRT, TFLite
weights); a signed full grid merely keeps -128 for what saturates. Ranges too small for a normal float32 scale, all
zeros among them, get scale 1 and zero point 0, as ONNX Runtime's quantizer does.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme

Array = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
TINY = float(np.finfo(np.float32).tiny)


def params_for(low: npt.ArrayLike, high: npt.ArrayLike, scheme: Scheme, rank: int = 0) -> QParams:
    """Scale and zero point for the range `[low, high]` (scalars, or arrays of the scale's shape).

    `rank` gives scalars the shape (1,) * rank.

    Raises:
        BadCalibration: a bound is NaN or infinite, or low > high.
    """
    lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if lo.ndim == 0:
        lo, hi = lo.reshape((1,) * rank), hi.reshape((1,) * rank)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo <= hi).all()):
        raise BadCalibration(f"A range of [{lo.ravel()[:3]}, {hi.ravel()[:3]}] cannot be quantized: it must be finite.")
    lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    grid = scheme.grid
    with np.errstate(over="ignore"):
        scale = np.maximum(-lo, hi) / grid.high if scheme.symmetric else (hi - lo) / (grid.high - grid.low)
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        scale = np.exp2(np.ceil(np.log2(np.maximum(scale, TINY))))
    small = scale < TINY
    scale = np.where(small, 1.0, np.minimum(scale, float(np.finfo(np.float32).max)))
    zero = np.zeros_like(scale) if scheme.symmetric else np.clip(np.rint(grid.low - lo / scale), grid.low, grid.high)
    return QParams(scheme, scale.astype(np.float32), np.where(small, 0, zero).astype(np.int32))


def params_of(x: Array, scheme: Scheme) -> QParams:
    """Min-max parameters of a whole tensor `x` under `scheme`; scale of `scheme.tiling.scale_shape(x.shape)`."""
    tiles = _tiled(x, scheme.tiling.scale_shape(x.shape))
    axes = tuple(range(1, tiles.ndim, 2))
    if x.size == 0:
        return params_for(0.0, 0.0, scheme, x.ndim)
    return params_for(tiles.min(axes), tiles.max(axes), scheme)


def _tiled(x: Array, scale_shape: tuple[int, ...]) -> Array:
    """View of `x` as (n0, run0, n1, run1, ...), where scale_shape = (n0, n1, ...)."""
    return x.reshape([d for n, size in zip(scale_shape, x.shape, strict=True) for d in (n, size // n if n else 0)])


def spread(values: npt.NDArray[T], shape: tuple[int, ...]) -> npt.NDArray[T]:
    """Repeat `values` (a scale or zero point) along its tiles until it broadcasts against a tensor of `shape`."""
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    for axis, (n, size) in enumerate(zip(values.shape, shape, strict=True)):
        if n not in (1, size):
            values = np.repeat(values, size // n, axis)
    return values


def quantize(x: Array, params: QParams, rounding: Rounding = Rounding.HALF_EVEN) -> npt.NDArray[np.integer]:
    """Codes of `x`, of the grid's dtype and `x`'s shape.

    Saturates in float before the zero point is added, as ONNX Runtime's kernel does; NaN gives the lowest code.
    """
    grid = params.scheme.grid
    wide = np.float64 if grid.bits > 23 else np.float32
    zero: npt.NDArray[np.floating] = spread(params.zero_point, x.shape).astype(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = (x / spread(params.scale, x.shape)).astype(wide)
    low, high = grid.low - zero, grid.high - zero
    clipped = np.minimum(np.maximum(np.where(np.isnan(ratio), low, ratio), low), high)
    codes: npt.NDArray[np.integer] = (rounding(clipped) + zero).astype(grid.dtype)
    return codes


def dequantize(codes: npt.NDArray[np.integer], params: QParams) -> Array:
    """(code - zero_point) * scale in float32, of the codes' shape."""
    offset = codes.astype(np.int64) - spread(params.zero_point, codes.shape)
    return (offset.astype(np.float32) * spread(params.scale, codes.shape)).astype(np.float32)


def fake_quantize(x: Array, params: QParams, rounding: Rounding = Rounding.HALF_EVEN) -> Array:
    """`dequantize(quantize(x))`: the nearest value that the codes can express."""
    return dequantize(quantize(x, params, rounding), params)
