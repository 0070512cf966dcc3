"""ONNX's own operators on codes, whose scales and zero points are operands, of every type.

    QuantizeLinear          codes = clip(half_even(x / s) + z); per tensor, axis or block; integers of 2 to 16 bits,
                            float8, float4. Half-precision x is divided in its own precision, or as `precision` says
    DequantizeLinear        (code - z) * s, in the scale's type or `output_dtype`
    DynamicQuantizeLinear   s = f32(f32(max(x, 0) - min(x, 0)) / 255), 1 where that is 0;
                            z = half_even(clip(0 - f32(min / s), 0, 255)); codes as above
    MatMulInteger, ConvInteger          int32 sums of (a - za)(b - zb)
    QLinearMatMul, QLinearConv          those sums, plus an int32 bias, requantized by f32(f32(sa * sb) / sy)

Sources: ONNX operators, opset 10 to 25; ONNX Runtime for DynamicQuantizeLinear of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.network import Op
from halfeven.graph.pairs import GRIDS
from halfeven.numerics.accumulate import Weights, conv_codes, conv_sums, matrix_sums
from halfeven.numerics.floats import (
    FLOAT4_E2M1,
    FLOAT8_E4M3FN,
    FLOAT8_E4M3FNUZ,
    FLOAT8_E5M2,
    FLOAT8_E5M2FNUZ,
    FLOAT8_E8M0,
    FloatGrid,
    saturating,
)
from halfeven.numerics.grid import UINT8, Grid
from halfeven.numerics.multiplier import float_multiplier
from halfeven.numerics.packed import Settled
from halfeven.numerics.product_pairs import Pairs
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.ragged import filled
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule
from halfeven.run.integer.layers import pairs_of, window_of
from halfeven.run.integer.machine import Array, Arrays, Run, given

FLOATS: dict[ir.DataType, FloatGrid] = {
    ir.DataType.FLOAT8E4M3FN: FLOAT8_E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ: FLOAT8_E4M3FNUZ,
    ir.DataType.FLOAT8E5M2: FLOAT8_E5M2,
    ir.DataType.FLOAT8E5M2FNUZ: FLOAT8_E5M2FNUZ,
    ir.DataType.FLOAT4E2M1: FLOAT4_E2M1,
    ir.DataType.FLOAT8E8M0: FLOAT8_E8M0,
}
KINDS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
)


@dataclass(frozen=True)
class Explicit:
    """One of `KINDS`. `pairs`: how two products of 8 bits are added."""

    requant: Requant = Requant.FLOAT32_HALF_EVEN
    pairs: Pairs = Pairs.EXACT

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operator."""
        ways: dict[str, Callable[[Op, Arrays], tuple[Array, ...]]] = {
            "QuantizeLinear": _quantize,
            "DequantizeLinear": _dequantize,
            "DynamicQuantizeLinear": _dynamic,
            "MatMulInteger": self._matrix_sums,
            "ConvInteger": self._conv_sums,
            "QLinearMatMul": self._matrix,
            "QLinearConv": self._conv,
        }
        way = ways[op.kind]
        return lambda arrays: way(op, arrays)

    def _matrix_sums(self, op: Op, arrays: Arrays) -> tuple[Array, ...]:
        a, b = given(arrays, 0), given(arrays, 1)
        return (self._product(a, b, _optional(arrays, 2), _optional(arrays, 3)),)

    def _product(self, a: Array, b: Array, zero_a: Array, zero_b: Array) -> Array:
        """Sums of codes; a zero point for each row of `a` is taken off beforehand, in 16 bits."""
        left = a.reshape(1, -1) if a.ndim == 1 else a
        if zero_a.size > 1:
            rows = zero_a if zero_a.ndim > 1 else zero_a.reshape(-1, 1)
            return matrix_sums(left.astype(np.int16) - rows.astype(np.int16), Weights(b, _columns(zero_b)), 0)
        found = matrix_sums(left, Weights(b, _columns(zero_b), pairs=self.pairs), int(zero_a.ravel()[0]))
        return found[..., 0, :] if a.ndim == 1 else found

    def _conv_sums(self, op: Op, arrays: Arrays) -> tuple[Array, ...]:
        x, w = given(arrays, 0), given(arrays, 1)
        zeros = _optional(arrays, 3).astype(np.int32).ravel()
        window = window_of(op, x.shape[2:], w.shape[2:])
        weights = Weights(w, zeros, int(op.attributes.get("group", 1)))  # kernels of QLinearConv alone add by pairs
        return (conv_sums(x, weights, int(_optional(arrays, 2).ravel()[0]), window),)

    def _matrix(self, op: Op, arrays: Arrays) -> tuple[Array, ...]:
        a, sa, za, b, sb, zb, sy, zy = (given(arrays, i) for i in range(8))
        rows = sa.astype(np.float32).reshape(-1, 1) if sa.size > 1 else sa.astype(np.float32).ravel()[0]
        columns = sb.astype(np.float32).ravel() if sb.ndim < 2 else sb.astype(np.float32)
        m = float_multiplier(rows, columns, sy.astype(np.float32).ravel()[0])
        acc = self._product(a, b, za, zb)
        zero = int(zy.ravel()[0])
        limits = int(np.iinfo(zy.dtype).min), int(np.iinfo(zy.dtype).max)
        return (requantize(acc, m, zero, *limits, self.requant).astype(zy.dtype),)

    def _conv(self, op: Op, arrays: Arrays) -> tuple[Array, ...]:
        x, sx, zx, w, sw, zw, sy, zy = (given(arrays, i) for i in range(8))
        bias = arrays[8] if len(arrays) > 8 else None
        pairs = pairs_of(op, 3, self.pairs)
        weights = Weights(w, zw.astype(np.int32).ravel(), int(op.attributes.get("group", 1)), pairs)
        held = np.iinfo(zy.dtype)
        m = float_multiplier(sx.ravel()[0], sw.ravel(), sy.ravel()[0])
        settled = Settled(m, self.requant, int(zy.ravel()[0]), (int(held.min), int(held.max)), zy.dtype)
        window = window_of(op, x.shape[2:], w.shape[2:])
        return (conv_codes(x, weights, int(zx.ravel()[0]), window, bias, settled),)


def _optional(arrays: Arrays, port: int) -> Array:
    """A zero point that may be left out."""
    found = arrays[port] if port < len(arrays) else None
    return np.zeros(1, np.int32) if found is None else found


def _columns(zero: Array) -> Array:
    """Zero points that broadcast against the second matrix: one for each column."""
    return zero.astype(np.int32).reshape(-1) if zero.ndim < 2 else zero.astype(np.int32)


def _quantize(op: Op, arrays: Arrays) -> tuple[Array, ...]:
    x, scale = given(arrays, 0), given(arrays, 1)
    zero = arrays[2] if len(arrays) > 2 else None
    asked = int(op.attributes.get("output_dtype", 0))
    kind = ir.DataType.from_numpy(zero.dtype) if zero is not None else ir.DataType(asked or ir.DataType.UINT8)
    precision = int(op.attributes.get("precision", 0))
    wide = ir.DataType(precision).numpy() if precision else np.result_type(x.dtype, np.float16)
    if wide != np.float32:  # the quotient, in the precision asked for
        shape = _parameters(op, x.shape, scale, None, kind).scale
        x, scale = x.astype(wide) / _spread(shape.astype(wide), x.shape), np.ones_like(scale, np.float32)
    params = _parameters(op, x.shape, scale, zero, kind)
    saturate = bool(op.attributes.get("saturate", 1))
    if kind in FLOATS and not saturate:
        scheme: Scheme[Grid] = Scheme(FLOATS[kind], params.scheme.tiling)
        params = QParams(scheme, params.scale, params.zero_point)
    values = np.asarray(filled(x.astype(np.float32), params.scheme.tiling), np.float32)
    codes = quantize(values, params)[tuple(map(slice, x.shape))]
    return (codes.astype(np.uint8).view(kind.numpy()) if kind in FLOATS else codes.astype(kind.numpy()),)


def _dequantize(op: Op, arrays: Arrays) -> tuple[Array, ...]:
    codes, scale = given(arrays, 0), given(arrays, 1)
    zero = arrays[2] if len(arrays) > 2 else None
    kind = ir.DataType.from_numpy(codes.dtype)
    asked = int(op.attributes.get("output_dtype", 0))
    made = ir.DataType(asked).numpy() if asked else scale.dtype
    params = _parameters(op, codes.shape, scale, zero, kind)
    plain = codes.view(np.uint8) if kind in FLOATS else codes.astype(np.int32)
    values = dequantize(np.asarray(filled(plain, params.scheme.tiling)), params)
    return (values[tuple(map(slice, codes.shape))].astype(made),)


def _parameters(op: Op, shape: tuple[int, ...], scale: Array, zero: Array | None, kind: ir.DataType) -> QParams[Grid]:
    """Scale and zero point with the rank of the tensor.

    Raises:
        UnsupportedModel: codes of a type that has no grid, or a scale that does not fit.
    """
    grid: Grid | None = GRIDS.get(kind) or (saturating(FLOATS[kind]) if kind in FLOATS else None)
    axis, block = int(op.attributes.get("axis", 1)), int(op.attributes.get("block_size", 0))
    if grid is None or (scale.size > 1 and not -len(shape) <= axis < len(shape)):
        raise UnsupportedModel(f"{op.kind} '{op.name}': codes of {kind.name}, scale of {scale.shape} for {shape}.")
    tiling, ranked = PER_TENSOR, (1,) * len(shape)
    if block:
        tiling = Tiling(tuple((i, block if i == axis % len(shape) else 1) for i in range(len(shape))))
        ranked = scale.shape
    elif scale.size > 1:
        tiling = Tiling(((axis % len(shape), 1),))
        ranked = tuple(scale.size if i == axis % len(shape) else 1 for i in range(len(shape)))
    integers = kind in GRIDS
    zeros = np.zeros(scale.shape, np.int32) if zero is None or not integers else zero.astype(np.int32)
    rule = ZeroRule.FREE if integers and zeros.any() else ZeroRule.NONE
    scheme: Scheme[Grid] = Scheme(grid, tiling, zero_point=rule)
    return QParams(scheme, scale.astype(np.float32).reshape(ranked), zeros.reshape(ranked))


def _spread(scale: Array, shape: tuple[int, ...]) -> Array:
    for axis, (n, size) in enumerate(zip(scale.shape, shape, strict=True)):
        if 1 < n < size:
            scale = np.repeat(scale, -(-size // n), axis).take(range(size), axis)
    return scale


def _dynamic(op: Op, arrays: Arrays) -> tuple[Array, ...]:
    x = given(arrays, 0).astype(np.float32)
    low, high = np.float32(min(x.min(initial=0), 0)), np.float32(max(x.max(initial=0), 0))
    scale = np.float32(high - low) / np.float32(255)
    scale = np.float32(1) if scale == 0 else scale
    zero = np.rint(np.clip(np.float32(0) - low / scale, 0, 255))
    shape = (1,) * x.ndim
    params = QParams(
        Scheme(UINT8, zero_point=ZeroRule.FREE),
        np.full(shape, scale, np.float32),
        np.full(shape, zero, np.float32).astype(np.int32),
    )
    return quantize(x, params), np.asarray(scale), np.asarray(zero, np.float32).astype(np.uint8)
