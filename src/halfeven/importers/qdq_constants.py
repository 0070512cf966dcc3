"""Constants of codes, made real numbers that quantize to the same codes again; and the schemes that files imply.

    codes of up to 16 bits    (code - zero_point) * scale in float32: the quotient by the scale is off by less than half
    codes of 32 bits          the same, or a neighbour of it among the float32 numbers; beyond 2**24 there may be none
                              that gives the code back: then the nearest is taken, and counted

A symmetric grid is narrow if no code is its lowest, as ONNX has one type for both.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.numerics.quantize import quantize
from halfeven.numerics.ragged import dequantize_ragged, is_ragged
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, Tiling

EXACT_BITS = 16
SMALLEST, LARGEST = 2.0**-100, 2.0**100
"""Scales between which no product of a code and a scale leaves the normal float32 numbers."""
KEPT_BYTES = 1 << 24  # of larger tensors the numbers are computed anew whenever they are read


def real_tensor(codes: ir.TensorProtocol, params: QParams, name: str) -> tuple[ir.TensorProtocol, int]:
    """A float32 tensor with the values of `codes`, and how many of them do not quantize back."""
    scale = params.scale
    if params.scheme.grid.bits <= EXACT_BITS and scale.min() > SMALLEST and scale.max() < LARGEST:
        shape = ir.Shape(codes.shape.numpy())
        small = codes.size * 4 <= KEPT_BYTES
        compute = partial(_tensor, codes, params, name)
        return ir.LazyTensor(compute, ir.DataType.FLOAT, shape, cache=small, name=name), 0
    wanted = integers(codes)
    values = _settled(_values(wanted, params), wanted, params)
    return ir.Tensor(values, name=name), int(np.count_nonzero(quantize(values, params) != wanted))


def integers(codes: ir.TensorProtocol) -> npt.NDArray[np.integer]:
    """The codes of a constant, in a type that NumPy has itself."""
    array = codes.numpy()
    small = array.dtype.kind not in "iu" or array.dtype.type.__module__ != "numpy"
    return np.asarray(array.astype(np.int16) if small else array)


def narrowed(codes: ir.TensorProtocol, params: QParams) -> QParams:
    """The parameters, on the narrow grid if that has all of the codes."""
    return _narrowed(lambda: integers(codes), params)


def narrowed_numbers(numbers: ir.TensorProtocol, params: QParams) -> QParams:
    """The parameters, on the narrow grid if that has all codes of a float32 tensor."""
    return _narrowed(lambda: quantize(numbers.numpy(), params), params)


def _narrowed(codes: Callable[[], npt.NDArray[np.integer]], params: QParams) -> QParams:
    grid = params.scheme.grid
    if not (grid.signed and params.scheme.symmetric and grid.bits <= EXACT_BITS):
        return params
    found = codes()
    if found.size == 0 or int(found.min()) == grid.low:
        return params
    scheme = replace(params.scheme, grid=replace(grid, narrow=True))
    return QParams(scheme, params.scale, params.zero_point)


def transposed(codes: ir.TensorProtocol, params: QParams, order: tuple[int, ...]) -> tuple[ir.TensorProtocol, QParams]:
    """Both with the axes in another order."""
    tiles = tuple(sorted((order.index(axis % len(order)), run) for axis, run in params.scheme.tiling.tiles))
    scheme = replace(params.scheme, tiling=Tiling(tiles))
    turned = np.ascontiguousarray(codes.numpy().transpose(order))
    scale, zero = np.ascontiguousarray(params.scale.transpose(order)), params.zero_point.transpose(order)
    return ir.Tensor(turned, dtype=codes.dtype), QParams(scheme, scale, np.ascontiguousarray(zero))


def _tensor(codes: ir.TensorProtocol, params: QParams, name: str) -> ir.TensorProtocol:
    return ir.Tensor(_values(integers(codes), params), name=name)


def _values(codes: npt.NDArray[np.integer], params: QParams) -> npt.NDArray[np.float32]:
    return dequantize_ragged(codes, params).reshape(codes.shape)


def _settled(
    values: npt.NDArray[np.float32], wanted: npt.NDArray[np.integer], params: QParams
) -> npt.NDArray[np.float32]:
    """The values, those that give another code replaced by a neighbour that gives the right one, if there is."""
    if is_ragged(values.shape, params.scheme.tiling):
        return values
    settled = values.copy()
    for side in (np.inf, -np.inf):
        near = values
        for _ in range(2):
            near = np.nextafter(near, np.float32(side))
            wrong = quantize(settled, params) != wanted
            better = wrong & (quantize(near, params) == wanted)
            settled = np.where(better, near, settled).astype(np.float32)
    return settled


def as_listed(params: QParams, table: list[Scheme], *, every: bool = True) -> QParams:
    """The parameters under the first scheme of a table that has their codes; as they are if there is none.

    `every`: all codes are known to lie on the grid of `params`; else a narrow grid may be meant, which no file states.
    """
    mine = params.scheme
    for scheme in table:
        if (scheme.grid.bits, scheme.grid.signed) != (mine.grid.bits, mine.grid.signed):
            continue
        if (scheme.symmetric and params.zero_point.any()) or (scheme.grid.narrow and every and not mine.grid.narrow):
            continue
        powers = scheme.scale is ScaleRule.POWER_OF_TWO and bool((np.frexp(params.scale)[0] == 0.5).all())
        rule = ScaleRule.POWER_OF_TWO if powers else ScaleRule.FREE
        listed = Scheme(scheme.grid, mine.tiling, rule, scheme.zero_point)
        return QParams(listed, params.scale, params.zero_point)
    return params
