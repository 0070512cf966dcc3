"""QuantizeLinear and DequantizeLinear nodes: their parameters, where these are constants.

    scale of shape ()                     per-tensor
    scale of shape (C,), `axis`           per-channel
    scale of the tensor's rank, `axis` and `block_size`     a scale for each run of `block_size` along `axis`

The grid follows from the type of the codes. A signed type whose zero points are all 0 is symmetric, all else affine.
Scales other than float32, scales that are computed, and codes that are no integers are left to who runs the node.
"""

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph import ops
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule, per_channel

GRIDS: dict[ir.DataType, IntGrid] = {
    ir.DataType.INT2: IntGrid(2),
    ir.DataType.UINT2: IntGrid(2, signed=False),
    ir.DataType.INT4: IntGrid(4),
    ir.DataType.UINT4: IntGrid(4, signed=False),
    ir.DataType.INT8: IntGrid(8),
    ir.DataType.UINT8: IntGrid(8, signed=False),
    ir.DataType.INT16: IntGrid(16),
    ir.DataType.UINT16: IntGrid(16, signed=False),
    ir.DataType.INT32: IntGrid(32),
}
TYPES = {grid: dtype for dtype, grid in GRIDS.items()}
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
DOMAINS = ("", "com.microsoft")


def is_border(node: ir.Node, kind: str) -> bool:
    """Whether the node is of `kind`, one of QuantizeLinear and DequantizeLinear."""
    return node.op_type == kind and node.domain in DOMAINS


def dtype_of(value: ir.Value) -> ir.DataType | None:
    """The type of a value, or of the tensor that it holds; None when neither says."""
    tensor = value.const_value
    return value.dtype if value.dtype is not None or tensor is None else tensor.dtype


def shape_of(value: ir.Value) -> tuple[int | str | None, ...] | None:
    """The shape of a value, or of the tensor that it holds; an open axis is a name or None."""
    shape = value.shape if value.shape is not None or value.const_value is None else value.const_value.shape
    return None if shape is None else tuple(d if isinstance(d, int) else d.value for d in shape)


def codes_type(node: ir.Node) -> ir.DataType | None:
    """The type of the codes that a QuantizeLinear makes or a DequantizeLinear takes."""
    read = node.inputs[0] if node.op_type == DEQUANTIZE else None
    for value in (read, *node.inputs[2:3]):
        if value is not None and (found := dtype_of(value)) is not None:
            return found
    asked = int(ops.attribute(node, "output_dtype", 0))
    return ir.DataType(asked) if asked else ir.DataType.UINT8


def params_at(node: ir.Node) -> QParams | None:
    """Parameters of a QuantizeLinear or DequantizeLinear; None where they are no constants, or no integers.

    A per-tensor scale has the shape (1,) * rank, of the rank that the tensor is known to have, else ().

    Raises:
        UnsupportedModel: a scale is not positive and finite, or its shape fits no tiling.
    """
    dtype = codes_type(node)
    grid = None if dtype is None else GRIDS.get(dtype)
    scale = ops.constant_of(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    given = ops.constant_of(zero)
    if grid is None or scale is None or scale.dtype != ir.DataType.FLOAT or (zero is not None and given is None):
        return None
    scales = np.asarray(scale.numpy(), np.float32)
    zeros = np.zeros(scales.shape, np.int32) if given is None else np.asarray(given.numpy()).astype(np.int32)
    if zeros.size == scales.size == 1:  # one tool or another gives only one of the two an axis
        zeros = zeros.reshape(scales.shape)
    if zeros.shape != scales.shape:
        raise UnsupportedModel(_fault(node, f"a scale of shape {scales.shape} and a zero point of {zeros.shape}"))
    tiling, shape = _tiling(node, scales)
    rule = ZeroRule.NONE if grid.signed and not zeros.any() else ZeroRule.FREE
    try:
        return QParams(Scheme(grid, tiling, zero_point=rule), scales.reshape(shape), zeros.reshape(shape))
    except BadOption as error:
        raise UnsupportedModel(_fault(node, str(error).rstrip("."))) from error


def _tiling(node: ir.Node, scales: np.ndarray) -> tuple[Tiling, tuple[int, ...]]:
    value = node.inputs[0]
    shape = None if value is None else shape_of(value)
    rank = None if shape is None else len(shape)
    block = int(ops.attribute(node, "block_size", 0))
    if scales.size == 1 and not block:
        return PER_TENSOR, (1,) * (rank or 0)
    if rank is None:
        raise UnsupportedModel(_fault(node, "several scales, for a tensor of unknown rank"))
    axis = int(ops.attribute(node, "axis", 1))
    if not -rank <= axis < rank or scales.ndim != (rank if block else 1):
        raise UnsupportedModel(_fault(node, f"a scale of shape {scales.shape} along axis {axis} of rank {rank}"))
    if block:
        return Tiling(tuple((i, block if i == axis % rank else 1) for i in range(rank))), scales.shape
    return per_channel(axis % rank), tuple(scales.size if i == axis % rank else 1 for i in range(rank))


def same(a: QParams, b: QParams) -> bool:
    """Whether two sets of parameters give each code the same value."""
    flat = (a.scale.ravel(), b.scale.ravel(), a.zero_point.ravel(), b.zero_point.ravel())
    tiled = a.scheme.tiling == b.scheme.tiling or a.scale.size == b.scale.size == 1
    return (
        a.scheme.grid == b.scheme.grid
        and tiled
        and np.array_equal(flat[0], flat[1])
        and np.array_equal(flat[2], flat[3])
    )


def _fault(node: ir.Node, found: str) -> str:
    return f"{node.op_type} '{node.name}' cannot be used: {found}. Export the model again."
