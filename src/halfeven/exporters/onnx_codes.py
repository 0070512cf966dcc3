"""Constants as ONNX states them: codes, scales and zero points as tensors, and the attributes that say what they cover.

    tiling                         scale          attributes of DequantizeLinear     opset
    per-tensor                     ()             -                                  10
    per-channel, axis a            (channels,)    axis = a                           13
    runs of b along axis a,        ceil(n / b)    axis = a, block_size = b           21
    one scale each elsewhere       along a

Codes of 4 bits and fewer are INT4 or UINT4, two in a byte, low half first; they and 16-bit ones are of opset 21. Zero
points are written where they are all 0 too: ONNX Runtime (1.31) makes MatMulNBits only of those that have them.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.graph.opset import convert_opset
from halfeven.graph.weights import let_go
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import quantize
from halfeven.numerics.ragged import is_ragged, quantize_ragged
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling

PIECE = 1 << 22
KEPT_BYTES = 1 << 24  # codes of smaller tensors are kept, of larger ones computed anew whenever they are written
OPSET_FOR_BLOCKS = 21
HALVES = {True: ir.DataType.INT4, False: ir.DataType.UINT4}


def in_opset(model: ir.Model, schemes: Iterable[Scheme]) -> ir.Model:
    """The model, in an opset that has codes of these schemes: itself, or another.

    Raises:
        UnsupportedModel: ONNX's converter knows no way to a later opset.
    """
    current = model.opset_imports.get("", OPSET_FOR_BLOCKS)
    if current >= OPSET_FOR_BLOCKS or not any(_recent(scheme) for scheme in schemes):
        return model
    return convert_opset(model, OPSET_FOR_BLOCKS)


def _recent(scheme: Scheme) -> bool:
    blocked = scheme.tiling.axis is None and scheme.tiling != PER_TENSOR
    return blocked or scheme.grid.bits <= 4 or scheme.grid.dtype.itemsize == 2


def codes_type(grid: IntGrid) -> ir.DataType:
    """The ONNX type of the codes of a grid."""
    return HALVES[grid.signed] if grid.bits <= 4 else ir.DataType.from_numpy(grid.dtype)


def codes_tensor(tensor: ir.TensorProtocol, params: QParams, name: str) -> ir.TensorProtocol:
    """The codes of a constant, computed when they are read."""
    small = tensor.nbytes <= KEPT_BYTES
    kind = codes_type(params.scheme.grid)
    return ir.LazyTensor(_codes_of(tensor, params, name), kind, ir.Shape(tensor.shape.numpy()), cache=small, name=name)


def scale_and_zero(params: QParams) -> tuple[npt.NDArray[np.float32], ir.TensorProtocol]:
    """Scale, and zero point in the codes' type."""
    tiling = params.scheme.tiling
    shape = () if not tiling.tiles else params.scale.shape if tiling.axis is None else (-1,)
    zero = params.zero_point.reshape(shape).astype(params.scheme.grid.dtype)
    return params.scale.reshape(shape), _typed(zero, params.scheme.grid, "")


def coverage(tiling: Tiling) -> list[ir.Attr]:
    """The attributes of a DequantizeLinear of this tiling.

    Raises:
        UnsupportedByTarget: runs along more than one axis.
    """
    if not tiling.tiles:
        return []
    if tiling.axis is not None:
        return [ir.AttrInt64("axis", tiling.axis)]
    runs = [(axis, run) for axis, run in tiling.tiles if run > 1]
    if len(runs) != 1:
        raise UnsupportedByTarget(f"ONNX has scales by runs along one axis, but the plan has runs {tiling.tiles}.")
    return [ir.AttrInt64("axis", runs[0][0]), ir.AttrInt64("block_size", runs[0][1])]


def _codes_of(tensor: ir.TensorProtocol, params: QParams, name: str) -> Callable[[], ir.TensorProtocol]:
    return partial(_evaluate, tensor, params, name)


def _evaluate(tensor: ir.TensorProtocol, params: QParams, name: str) -> ir.TensorProtocol:
    codes = _pieces(tensor.numpy(), params)
    let_go(tensor)
    return _typed(codes, params.scheme.grid, name)


def _typed(codes: npt.NDArray[np.integer], grid: IntGrid, name: str) -> ir.TensorProtocol:
    kind = codes_type(grid)
    return ir.Tensor(codes if grid.bits > 4 else codes.astype(kind.numpy()), dtype=kind, name=name or None)


def _pieces(x: npt.NDArray[np.generic], params: QParams) -> npt.NDArray[np.integer]:
    """The codes, a piece of the leading axis at a time where that has one scale or one scale for each row."""
    axis, tiling = params.scheme.tiling.axis, params.scheme.tiling
    if is_ragged(x.shape, tiling):
        return quantize_ragged(x.astype(np.float32, copy=False), params)
    if x.size <= PIECE or x.ndim < 2 or axis not in (None, 0) or (tiling.tiles and axis is None):
        return quantize(x.astype(np.float32, copy=False), params)
    codes = np.empty(x.shape, params.scheme.grid.dtype)
    rows = max(1, PIECE // (x.size // x.shape[0]))
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        own = params if axis is None else QParams(params.scheme, params.scale[part], params.zero_point[part])
        codes[part] = quantize(x[part].astype(np.float32, copy=False), own)
    return codes
