"""The vectors that a layer's weights multiply: windows of a convolution, rows of a matrix product."""

from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.numerics.tally import PLAIN, Lying

Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Ints: TypeAlias = tuple[int, ...]


def patches(node: ir.Node, x: Array, limit: int, lying: Lying = PLAIN) -> Array | None:
    """Up to `limit` input vectors of a layer, evenly spread over the output positions.

    Args:
        node: Conv, Gemm or MatMul with a constant weight.
        x: The layer's data input.
        limit: How many vectors at most for each item of the batch.
        lying: How the data input of a Conv lies in memory, and what its channels are multiplied by.

    Returns:
        Shape (groups, vectors, k), k as in `matrix_of`; None for a node without that form, or no vectors.
    """
    if x.size == 0:
        return None
    if node.op_type in ("Gemm", "MatMul"):
        rows = x.reshape(-1, x.shape[-1])
        return rows[_spread(len(rows), limit)][None]
    return _windows(node, x, limit, lying) if node.op_type == "Conv" and x.ndim >= 3 else None


def matrix_of(node: ir.Node, weight: Array) -> Array:
    """The weight as (groups, outputs, k): what the vectors of `patches` are multiplied by."""
    if node.op_type == "Conv":
        groups = int(ops.attribute(node, "group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    rows = weight if node.op_type == "Gemm" and ops.attribute(node, "transB", 0) else np.swapaxes(weight, -1, -2)
    return rows.reshape(1, -1, rows.shape[-1])


def weight_of(node: ir.Node, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `matrix_of`."""
    if node.op_type == "Conv" or ops.attribute(node, "transB", 0):
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix[0].T).reshape(shape)


def vector_length(node: ir.Node) -> int:
    """K of `matrix_of`, from the weight's shape; 0 for a node without that form."""
    port = ops.weight_port(node)
    if port != 1 or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    tensor = ops.constant_of(node.inputs[1])
    shape = ops.dims_of(tensor) if tensor is not None else ()
    if node.op_type == "Conv":
        return prod(shape[1:])
    if len(shape) != 2:
        return 0
    return shape[1] if node.op_type == "Gemm" and ops.attribute(node, "transB", 0) else shape[0]


def _spread(count: int, limit: int) -> npt.NDArray[np.int64]:
    return np.arange(count) if count <= limit else (np.arange(limit) * count) // limit


def _windows(node: ir.Node, x: Array, limit: int, lying: Lying) -> Array:
    tensor = ops.constant_of(node.inputs[1])
    assert tensor is not None
    kernel = tuple(ops.dims_of(tensor)[2:])
    axes = len(kernel)
    strides = _ints(node, "strides", [1] * axes)
    dilations = _ints(node, "dilations", [1] * axes)
    groups = int(ops.attribute(node, "group", 1))
    pads = _pads(node, x.shape[2:], kernel, strides, dilations)
    index, inside = _places(x.shape[2:], kernel, strides, dilations, pads, limit)
    batch, channels, block = *x.shape[:2], lying.block
    in_blocks = x.reshape(batch, channels // block, *x.shape[2:], block)
    all_of: tuple[Any, ...] = (slice(None),) * 3
    found: Array = np.moveaxis(in_blocks, -1, 2)[all_of + index]  # batch, blocks, channels of one, positions, kernel...
    positions = found.shape[3]
    found = found.reshape(batch, channels, *found.shape[3:])
    if lying.factors.size:
        with np.errstate(over="ignore", invalid="ignore"):
            found = found * lying.factors.reshape(-1, *[1] * (1 + axes))
    if inside is not None:
        found = np.where(inside, found, np.float32(0))
    split = found.reshape(batch, groups, channels // groups, positions, prod(kernel))
    return split.transpose(1, 0, 3, 2, 4).reshape(groups, batch * positions, -1)


@lru_cache(maxsize=256)
def _places(
    sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: tuple[tuple[int, int], ...], limit: int
) -> tuple[tuple[Places, ...], npt.NDArray[np.bool_] | None]:
    """Where the windows lie, an index for each axis, and which of it lies inside; None if all does."""
    axes = len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = [size + sum(pad) for size, pad in zip(sizes, pads, strict=True)]
    counts = [(s - r) // t + 1 for s, r, t in zip(padded, reach, strides, strict=True)]
    picked = np.unravel_index(_spread(prod(counts), limit), counts)
    index: list[Places] = []
    inside: npt.NDArray[np.bool_] = np.ones(1, np.bool_)
    for axis, (at, size) in enumerate(zip(picked, sizes, strict=True)):
        taps = (np.arange(kernel[axis]) * dilations[axis] - pads[axis][0]).reshape(
            [-1 if i == axis else 1 for i in range(axes)]
        )
        places = np.asarray(at * strides[axis]).reshape(-1, *[1] * axes) + taps
        index.append(np.clip(places, 0, size - 1))
        inside = inside & (places >= 0) & (places < size)
    return tuple(index), None if np.all(inside) else inside


def _ints(node: ir.Node, name: str, default: list[int]) -> Ints:
    return tuple(int(v) for v in ops.attribute(node, name, default))


def _pads(node: ir.Node, size: Ints, kernel: Ints, strides: Ints, dilations: Ints) -> tuple[tuple[int, int], ...]:
    axes = len(kernel)
    auto = ops.attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        out = []
        for s, k, t, d in zip(size, kernel, strides, dilations, strict=True):
            total = max((-(-s // t) - 1) * t + (k - 1) * d + 1 - s, 0)
            small, large = total // 2, total - total // 2
            out.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return tuple(out)
    pads = _ints(node, "pads", [0] * 2 * axes) if auto == "NOTSET" else (0,) * 2 * axes
    return tuple(zip(pads[:axes], pads[axes:], strict=True))
