"""Quantize, dequantize, and the parameters that fit a range.

    code  = clip(round(x / scale) + zero_point, low, high)          ONNX QuantizeLinear: true division, half to even,
    value = (code - zero_point) * scale                             the zero point added after the rounding

Range to parameters, zero always exact (the range is widened to hold 0), computed in float64, stored as float32:

    affine       scale = (max - min) / (high - low)          zero_point = clip(rint(low - min / scale), low, high)
    symmetric    scale = max(|min|, |max|) / high            zero_point = 0

The symmetric scale divides by `high` = 127 on int8, full or narrow, so that +absmax is a code (TensorRT, TFLite
weights); a signed full grid merely keeps -128 for what saturates. Ranges too small for a normal float32 scale, all
zeros among them, get scale 1 and zero point 0, as ONNX Runtime's quantizer does.

Codes that are no integers (`numerics.grid`) have no zero point. `x / scale` is a float32 division, and what it gives is
encoded by the grid; a value is that of the code, times the scale, in float32:

    code  = grid.encode(x / scale)             scale of a range = max(|min|, |max|) / (largest value at scale 1)
    value = grid.decode(code) * scale          binary and ternary: the mean of `numerics.binary`, so only `params_of`

Floats round by any rule; the others take the nearest and have no ties to break.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics import native
from halfeven.numerics.binary import BinaryGrid, TernaryGrid, binary_scale, ternary_scale
from halfeven.numerics.floats import FloatGrid
from halfeven.numerics.grid import INT32, Grid, IntGrid
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import AnyGrid, QParams, ScaleRule, Scheme

Array = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
TINY = float(np.finfo(np.float32).tiny)


def params_for(low: npt.ArrayLike, high: npt.ArrayLike, scheme: Scheme[AnyGrid], rank: int = 0) -> QParams[AnyGrid]:
    """Scale and zero point for the range `[low, high]` (scalars, or arrays of the scale's shape).

    `rank` gives scalars the shape (1,) * rank.

    Raises:
        BadCalibration: a bound is NaN or infinite, or low > high.
        BadOption: binary or ternary codes, whose scale no range gives; a zero point of uint32 beyond int32.
    """
    lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if lo.ndim == 0:
        lo, hi = lo.reshape((1,) * rank), hi.reshape((1,) * rank)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo <= hi).all()):
        raise BadCalibration(f"A range of [{lo.ravel()[:3]}, {hi.ravel()[:3]}] cannot be quantized: it must be finite.")
    lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    grid: Grid = scheme.grid
    if isinstance(grid, BinaryGrid | TernaryGrid):
        raise BadOption(f"The scale of {grid} codes is a mean, which a range does not give; use params_of.")
    affine = grid if isinstance(grid, IntGrid) and not scheme.symmetric else None
    with np.errstate(over="ignore"):
        scale = np.maximum(-lo, hi) / grid.high if affine is None else (hi - lo) / (affine.high - affine.low)
    scale, small = _settled(scale, scheme)
    zero = np.zeros_like(scale)
    if affine is not None:
        zero = np.clip(np.rint(affine.low - lo / scale), affine.low, affine.high)
        if (zero > INT32.high).any():
            raise BadOption(f"A zero point of {zero.max():.0f} on {affine} does not fit in int32; use at most 31 bits.")
    return QParams(scheme, scale.astype(np.float32), np.where(small, 0, zero).astype(np.int32))


def _settled(
    scale: npt.NDArray[np.float64], scheme: Scheme[Grid]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scales that may be chosen, not below the ideal ones but for overflow, and which had been too small."""
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        scale = np.exp2(np.ceil(np.log2(np.maximum(scale, TINY))))
    small = scale < TINY
    return np.where(small, 1.0, np.minimum(scale, float(np.finfo(np.float32).max))), small


def params_of(x: Array, scheme: Scheme[AnyGrid]) -> QParams[AnyGrid]:
    """Min-max parameters of a whole tensor `x` under `scheme`; scale of `scheme.tiling.scale_shape(x.shape)`.

    For binary and ternary codes, the means of `numerics.binary`.
    """
    tiles = _tiled(x, scheme.tiling.scale_shape(x.shape))
    axes = tuple(range(1, tiles.ndim, 2))
    grid: Grid = scheme.grid
    if isinstance(grid, BinaryGrid | TernaryGrid):
        return _mean_params(tiles, axes, scheme)
    if x.size == 0:
        return params_for(0.0, 0.0, scheme, x.ndim)
    return params_for(tiles.min(axes), tiles.max(axes), scheme)


def _mean_params(tiles: Array, axes: tuple[int, ...], scheme: Scheme[AnyGrid]) -> QParams[AnyGrid]:
    """Alpha, and the threshold of ternary codes."""
    if not (tiles.size and np.isfinite(tiles).all()):
        raise BadCalibration(f"A tensor that is empty or not finite cannot be quantized to {scheme.grid} codes.")
    ternary = isinstance(scheme.grid, TernaryGrid)
    mean, threshold = ternary_scale(tiles, axes) if ternary else (binary_scale(tiles, axes), None)
    scale, _ = _settled(mean, scheme)
    return QParams(scheme, scale.astype(np.float32), np.zeros(scale.shape, np.int32), threshold)


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


def quantize(x: Array, params: QParams[Grid], rounding: Rounding = Rounding.HALF_EVEN) -> npt.NDArray[np.integer]:
    """Codes of `x`, of the grid's dtype and `x`'s shape.

    Integers saturate in float before the zero point is added, as in ONNX Runtime's kernel. NaN gets the lowest code, in
    a FloatGrid that of NaN.

    Raises:
        BadOption: a rounding rule for codes that have no ties.
    """
    grid = params.scheme.grid
    if isinstance(grid, IntGrid):
        return _integers(x, params, grid, rounding)
    if isinstance(grid, FloatGrid):
        return grid.encode(_ratio(x, params), rounding)
    if rounding is not Rounding.HALF_EVEN:
        raise BadOption(f"quantize: {grid} codes are the nearest; there are no ties for '{rounding}' to break.")
    if isinstance(grid, BinaryGrid):
        return grid.encode(x)
    if isinstance(grid, TernaryGrid):
        limit = params.scale / np.float32(2) if params.threshold is None else params.threshold
        return grid.encode(x, spread(limit, x.shape))
    return grid.encode(_ratio(x, params))


def _ratio(x: Array, params: QParams[Grid]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return x / spread(params.scale, x.shape)


def _integers(x: Array, params: QParams[Grid], grid: IntGrid, rounding: Rounding) -> npt.NDArray[np.integer]:
    if rounding is Rounding.HALF_EVEN:
        fast = native.quantize(x, params.scale, params.zero_point, grid.low, grid.high, grid.dtype)
        if fast is not None:
            return fast
    wide = np.float64 if grid.bits > 23 else np.float32
    zero: npt.NDArray[np.floating] = spread(params.zero_point, x.shape).astype(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = _ratio(x, params).astype(wide)
    low, high = grid.low - zero, grid.high - zero
    clipped = np.minimum(np.maximum(np.where(np.isnan(ratio), low, ratio), low), high)
    codes: npt.NDArray[np.integer] = (rounding(clipped) + zero).astype(grid.dtype)
    return codes


def dequantize(codes: npt.NDArray[np.integer], params: QParams[Grid]) -> Array:
    """(code - zero_point) * scale in float32, of the codes' shape; other grids: value of the code times scale.

    `codes` of any integer dtype (int8, int16, int32, unsigned): a wider one than the grid's changes nothing.
    """
    grid, scale = params.scheme.grid, spread(params.scale, codes.shape)
    if isinstance(grid, IntGrid | BinaryGrid | TernaryGrid):
        if (fast := native.dequantize(codes, params.scale, params.zero_point)) is not None:
            return fast
        values = (codes.astype(np.int64) - spread(params.zero_point, codes.shape)).astype(np.float32)
    else:
        values = grid.decode(codes).astype(np.float32)
    with np.errstate(over="ignore"):
        return (values * scale).astype(np.float32)


def fake_quantize(x: Array, params: QParams[Grid], rounding: Rounding = Rounding.HALF_EVEN) -> Array:
    """`dequantize(quantize(x))`: the nearest value that the codes can express."""
    grid = params.scheme.grid
    if isinstance(grid, IntGrid) and rounding is Rounding.HALF_EVEN:
        fast = native.fake_quantize(x, params.scale, params.zero_point, grid.low, grid.high)
        if fast is not None:
            return fast
    return dequantize(quantize(x, params, rounding), params)


def dynamic_quantize(x: Array, scheme: Scheme[AnyGrid]) -> tuple[npt.NDArray[np.integer], QParams[AnyGrid]]:
    """Codes of `x`, and parameters that are those of `x` itself: what a dynamic policy computes at run time."""
    params = params_of(x, scheme)
    return quantize(x, params), params
