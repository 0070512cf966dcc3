"""The tensors of a .tflite file, and the constants among them.

    Tensor         0 shape   1 type   2 buffer   3 name   4 quantization   5 is_variable   6 sparsity   7 signature
    Quantization   2 scale   3 zero_point   4 kind of details   6 quantized_dimension
    Buffer         0 data   1 offset   2 size: data that lie behind the flatbuffer, in files of 2 GiB and more
    Sparsity       0 traversal_order   1 block_map   2 dim_metadata
    DimMetadata    0 format (0 dense, 1 compressed)   1 size   2, 3 segments   4, 5 indices
                   (kind and table of a vector: 1 int32, 2 uint16, 3 uint8)

A tensor is a constant if its buffer has bytes, and then has as many as shape and type ask for; int4 stands two to a
byte, the low half first. A sparse tensor keeps its elements other than zero along a tree, one level for each axis and
then one for each block axis (which divides the axis `block_map` names), in `traversal_order`: below each node of a
dense level stand `size` nodes, below node p of a compressed one the coordinates
indices[segments[p] .. segments[p + 1]].
Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.flatbuffer import Source, Table
from halfeven.importers.litert.schema import OTHER_TYPES, TYPES
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import dequantize
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, ZeroRule, per_channel

MAX_RANK = 8
LONGEST_AXIS = 1 << 31
SPARSEST = 256
"""A sparse constant may become so many times larger than the file; what is sparser than that was made to do harm."""
CODES = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.INT4)
BIASES = (ir.DataType.INT32, ir.DataType.INT64)
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Quantization:
    """real = (code - zero_point) * scale; float32 and int64 of shape (1,), or (n,) along `axis`."""

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file. `dims`: None along an open axis. `data`: its codes or numbers, if it is a constant."""

    index: int
    name: str
    dims: tuple[int | None, ...]
    kind: int
    data: Array | None
    quantization: Quantization | None
    variable: bool

    @property
    def readable(self) -> bool:
        """Whether ONNX has its element type."""
        return self.kind in TYPES

    @property
    def dtype(self) -> ir.DataType:
        """Its element type.

        Raises:
            UnsupportedModel: ONNX has no such type.
        """
        if not self.readable:
            name = OTHER_TYPES.get(self.kind, f"number {self.kind}")
            raise UnsupportedModel(f"Tensor '{self.name}' has elements of type {name}, which cannot be imported.")
        return TYPES[self.kind]

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.dims)

    @property
    def coded(self) -> bool:
        """Whether it holds codes of real numbers."""
        return self.quantization is not None and self.dtype in CODES


def read_tensor(index: int, table: Table, buffers: list[Table], source: Source) -> Tensor:
    """Read and check a tensor.

    Raises:
        UnsupportedModel: its shape, bytes or quantization make no sense or cannot be read.
    """
    name = table.text(3) or f"tensor_{index}"
    shape, signature = table.integers(0), table.integers(7)
    number = table.integer(2, "I")
    if number and number >= len(buffers):
        raise source.damaged(f"tensor '{name}' has buffer {number} of {len(buffers)}")
    if len(shape) > MAX_RANK or any(not -1 <= d < LONGEST_AXIS for d in (*shape, *signature)):
        raise source.damaged(f"tensor '{name}' has the impossible shape {list(shape[: MAX_RANK + 1])}")
    declared = signature if len(signature) == len(shape) else shape
    dims = tuple(None if d < 0 else d for d in declared)
    kind, sparsity = table.integer(1, "b"), table.table(6)
    content = _content(buffers[number], source) if number else memoryview(b"")
    data = None
    if len(content) and kind in TYPES:
        if min(shape, default=0) < 0:
            raise source.damaged(f"constant '{name}' has an open shape, {list(shape)}")
        dims = shape
        data = _sparse(name, content, shape, kind, sparsity, source) if sparsity else None
        data = _dense(name, content, shape, kind, source) if data is None else data
    quantization = _quantization(name, kind, table.table(4), dims, source)
    return Tensor(index, name, dims, kind, data, quantization, bool(table.number(5, "?")))


def real_numbers(tensor: Tensor) -> npt.NDArray[np.float32] | None:
    """What the numbers or codes of a constant stand for, of its shape; None for a tensor that is computed."""
    params = tensor.quantization
    if tensor.data is None or params is None:
        return None if tensor.data is None else tensor.data.astype(np.float32)
    single = params.scale.size == 1
    shape = tuple(-1 if axis == params.axis and not single else 1 for axis in range(tensor.rank))
    scheme = Scheme(IntGrid(32), PER_TENSOR if single else per_channel(params.axis), zero_point=ZeroRule.FREE)
    zero = params.zero_point.astype(np.int32).reshape(shape)
    return dequantize(tensor.data.astype(np.int64), QParams(scheme, params.scale.reshape(shape), zero))


def _content(buffer: Table, source: Source) -> memoryview:
    start, size = buffer.integer(1, "Q"), buffer.integer(2, "Q")
    if start <= 1:
        return buffer.content(0)
    if start + size > len(source.data):
        raise source.damaged(f"a buffer of {size} bytes at byte {start} runs over the end")
    return source.data[start : start + size]


def _dense(name: str, content: memoryview, shape: tuple[int, ...], kind: int, source: Source) -> Array:
    dtype, count = TYPES[kind], math.prod(shape)
    needed = (count + 1) // 2 if dtype == ir.DataType.INT4 else count * dtype.numpy().itemsize
    if len(content) != needed:
        raise source.damaged(f"constant '{name}' of shape {list(shape)} needs {needed} bytes, found {len(content)}")
    return _elements(content, dtype, count).reshape(shape)


def _elements(content: memoryview, dtype: ir.DataType, count: int) -> Array:
    if dtype == ir.DataType.INT4:
        packed = np.frombuffer(content, np.int8)
        halves = np.stack((np.left_shift(packed, 4) >> 4, packed >> 4), -1).ravel()[:count]
        codes: Array = halves.astype(dtype.numpy())
        return codes
    if dtype == ir.DataType.BOOL:
        return np.asarray(np.frombuffer(content, np.uint8, count) != 0)
    return np.frombuffer(content, dtype.numpy().newbyteorder("<"), count)


def _quantization(
    name: str, kind: int, table: Table | None, dims: tuple[int | None, ...], source: Source
) -> Quantization | None:
    dtype = TYPES.get(kind)
    if table is None or dtype not in (*CODES, *BIASES):
        return None
    scale = table.numbers(2, "<f4").astype(np.float32)
    zero = table.numbers(3, "<i8").astype(np.int64)
    if table.integer(4, "B"):
        raise UnsupportedModel(f"{source.where}: tensor '{name}' is quantized in blocks or in a custom way.")
    if not scale.size:
        return None
    zero = np.zeros(scale.shape, np.int64) if not zero.size else zero
    axis = table.integer(6) if scale.size > 1 else 0
    misfit = scale.size > 1 and (not 0 <= axis < len(dims) or dims[axis] != scale.size)
    if misfit or zero.size not in (1, scale.size):
        raise source.damaged(f"tensor '{name}' of shape {list(dims)} has {scale.size} scales along axis {axis}")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UnsupportedModel(f"{source.where}: tensor '{name}' has a scale that is not positive and finite.")
    low, high = (0, 0) if dtype in BIASES else (int(dtype.min), int(dtype.max))
    if zero.min() < low or zero.max() > high:
        raise UnsupportedModel(f"{source.where}: tensor '{name}' has a zero point outside {low} to {high}.")
    return Quantization(scale, np.broadcast_to(zero, scale.shape), axis)


# ------------------------------------------------------------------------------------------------ sparse constants


def _sparse(
    name: str, content: memoryview, shape: tuple[int, ...], kind: int, sparsity: Table, source: Source
) -> Array | None:
    """The dense form of a sparse constant; None where it was stored densely all the same."""
    levels = sparsity.tables(2)
    if not levels:
        return None
    order, blocks = sparsity.integers(0), sparsity.integers(1)
    dtype, rank, total = TYPES[kind], len(shape), math.prod(shape)
    fits = len(levels) == rank + len(blocks) and sorted(order) == list(range(len(levels)))
    if not fits or any(not 0 <= b < rank for b in blocks) or dtype == ir.DataType.INT4:
        raise source.damaged(f"the sparse constant '{name}' contradicts itself")
    if total * dtype.numpy().itemsize > SPARSEST * len(source.data):
        raise UnsupportedModel(f"{source.where}: the sparse constant '{name}' would have {total} elements.")
    sizes = [0] * len(levels)
    places = np.zeros((len(levels), 1), np.int64)
    for level, axis in zip(levels, order, strict=True):
        places, sizes[axis] = _descend(places, axis, level, total, name, source)
    for block, axis in enumerate(blocks):
        places[axis] = places[axis] * sizes[rank + block] + places[rank + block]
    values = content.nbytes // dtype.numpy().itemsize
    outside = any(places.shape[1] and int(places[a].max()) >= shape[a] for a in range(rank))
    if places.shape[1] != values or outside:
        raise source.damaged(f"the sparse constant '{name}' has {values} elements for {places.shape[1]} places")
    dense = np.zeros(shape, dtype.numpy())
    dense[tuple(places[:rank])] = _elements(content, dtype, values)
    return dense


def _descend(
    places: npt.NDArray[np.int64], axis: int, level: Table, total: int, name: str, source: Source
) -> tuple[npt.NDArray[np.int64], int]:
    """The nodes of the next level, as columns of coordinates, and the size of its axis if it is dense."""
    nodes = places.shape[1]
    size = level.integer(1)
    if level.integer(0, "b") == 0:
        if not 0 < size * nodes <= total:
            raise source.damaged(f"the sparse constant '{name}' has a level of {size} for each of {nodes}")
        coordinates, repeats = np.tile(np.arange(size, dtype=np.int64), nodes), np.full(nodes, size)
    else:
        size, segments, coordinates = 0, _indices(level, 2), _indices(level, 4)
        repeats = np.diff(segments)
        whole = segments.size == nodes + 1 and segments[0] == 0 and segments[-1] == coordinates.size
        if not whole or repeats.min(initial=0) < 0 or coordinates.min(initial=0) < 0 or coordinates.size > total:
            raise source.damaged(f"the sparse constant '{name}' has segments that do not fit its indices")
    places = np.repeat(places, repeats, axis=1)
    places[axis] = coordinates
    return places, size


def _indices(level: Table, slot: int) -> npt.NDArray[np.int64]:
    kind, vector = level.integer(slot, "B"), level.table(slot + 1)
    types = {1: "<i4", 2: "<u2", 3: "u1"}
    if vector is None or kind not in types:
        return np.zeros(0, np.int64)
    return vector.numbers(0, types[kind]).astype(np.int64)
