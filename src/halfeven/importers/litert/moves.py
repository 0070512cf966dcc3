"""Operators that move elements: shapes, pieces, joints, lookups.

A reshape that keeps the first and the last axis does the same with channels first, and so does one of a tensor whose
places or channels are one; otherwise the file's order is restored before it. Joins, pieces and paddings work in the
order their operand came in. Negative axes, starts and ends count from the end, in both formats.
Sources: tensorflow/lite/kernels; the ONNX operators.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.layout import placed, to_first, to_last

Dims = tuple[int | None, ...]


def reshape(b: Builder, op: Operator) -> None:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: to the shape the file gives, or one that is computed."""
    index, out = op.input(0), op.output()
    source, dims = b.tensors[index], b.tensors[out].dims
    told = op.kind == "RESHAPE" and op.has(1)
    if told and b.data(op.input(1)) is None:
        b.give(out, b.call("Reshape", b.read(index), lengths(b, op, 1)))
        return
    target = b.integers(op, 1) if told else [-1 if d is None else d for d in dims]
    if target.count(-1) > 1:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has several open axes, which cannot be imported.")
    first = b.is_first(index)
    keeps = first and len(target) > 2 and len(dims) == len(target) and _ends(dims) == _ends(source.dims)
    allow = 1 if 0 in target else None
    if keeps:
        target = [target[axis] for axis in to_first(len(target))]
    value = b.call("Reshape", b.read(index, first=keeps or _one_column(b, index)), b.small(target), allowzero=allow)
    b.give(out, value, first=keeps)


def _ends(dims: Dims) -> tuple[int | None, int | None]:
    return dims[0], dims[-1]


def _one_column(b: Builder, index: int) -> bool:
    """Whether a tensor came with channels first, and its elements lie as they would with channels last."""
    dims = b.tensors[index].dims
    return b.is_first(index) and (dims[-1] == 1 or all(d == 1 for d in dims[1:-1]))


def transpose(b: Builder, op: Operator) -> None:
    """TRANSPOSE: one that puts channels last gives what came in, with channels first."""
    index, out, order = op.input(0), op.output(), tuple(b.integers(op, 1))
    rank = b.tensors[index].rank
    if sorted(order) != list(range(rank)):
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has the order {list(order)} for {rank} axes.")
    if rank > 2 and order == to_last(rank) and not b.is_first(index):
        b.give(out, b.call("Identity", b.read(index)), first=True)
        return
    first = b.is_first(index)
    moved = [placed(axis, rank, first) for axis in order]
    value = b.read(index, first=first)
    same = moved == list(range(rank))
    b.give(out, b.call("Identity", value) if same else b.call("Transpose", value, perm=moved))


def concatenate(b: Builder, op: Operator) -> None:
    """CONCATENATION."""
    rank = b.tensors[op.output()].rank
    values, first = b.aligned([op.input(port) for port in range(len(op.inputs))], rank)
    value = b.call("Concat", *values, axis=placed(op.option("axis"), rank, first))
    b.give(op.output(), value, first=first, activation=op.option("activation"))


def pack(b: Builder, op: Operator) -> None:
    """PACK: a new axis to join along."""
    axis = placed(op.option("axis"), b.tensors[op.output()].rank, False)
    parts = []
    for port in range(len(op.inputs)):
        index = op.input(port)
        parts.append(b.coded(b.call("Unsqueeze", b.read(index), b.small([axis])), b.tensors[index]))
    b.give(op.output(), b.call("Concat", *parts, axis=axis))


def unpack(b: Builder, op: Operator) -> None:
    """UNPACK: the slices along an axis, without it."""
    axis = placed(op.option("axis"), b.tensors[op.input(0)].rank, False)
    count = len(op.outputs)
    parts = b.call_many("Split", count, b.read(op.input(0)), axis=axis, num_outputs=count)
    for out, part in zip(op.outputs, parts, strict=True):
        b.give(out, b.call("Squeeze", b.coded(part, b.tensors[op.input(0)]), b.small([axis])))


def split(b: Builder, op: Operator) -> None:
    """SPLIT (axis, data) into equal parts, SPLIT_V (data, sizes, axis) into parts of given sizes."""
    uneven = op.kind == "SPLIT_V"
    index, (axis,) = op.input(0 if uneven else 1), b.integers(op, 2 if uneven else 0)
    tensor, first, count = b.tensors[index], b.is_first(index), len(op.outputs)
    at = placed(axis, tensor.rank, first)
    sizes = b.integers(op, 1) if uneven else None
    if sizes is not None and -1 in sizes:
        whole = tensor.dims[axis % tensor.rank]
        if whole is None:
            raise UnsupportedModel(f"{b.contents.where}: {b.label} splits an open axis, which cannot be imported.")
        sizes[sizes.index(-1)] = whole - sum(sizes) - 1
    value = b.read(index, first=first)
    if sizes is None:
        parts = b.call_many("Split", count, value, axis=at, num_outputs=count)
    else:
        parts = b.call_many("Split", count, value, b.small(sizes), axis=at)
    for out, part in zip(op.outputs, parts, strict=True):
        b.give(out, part, first=first)


def pad(b: Builder, op: Operator) -> None:
    """PAD, PADV2 with a number of its own, MIRROR_PAD without or with the edge."""
    index = op.input(0)
    rank, first = b.tensors[index].rank, b.is_first(op.input(0))
    amounts = b.integers(op, 1)
    if len(amounts) != 2 * rank or min(amounts, default=0) < 0:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} pads {rank} axes by {amounts}.")
    axes = to_first(rank) if first else range(rank)
    value = b.read(index, first=first)
    if op.kind == "MIRROR_PAD" and op.option("mode") == 1:
        for axis in range(rank):
            if any(amounts[2 * axis : 2 * axis + 2]):
                value = b.coded(
                    _mirrored(b, value, index, axis, amounts[2 * axis : 2 * axis + 2], first), b.tensors[index]
                )
        b.give(op.output(), value, first=first)
        return
    pads = b.small([*(amounts[2 * axis] for axis in axes), *(amounts[2 * axis + 1] for axis in axes)])
    if op.kind == "MIRROR_PAD":
        b.give(op.output(), b.call("Pad", value, pads, mode="reflect"), first=first)
        return
    fill = None
    if op.kind == "PADV2":
        numbers = b.reals(op.input(2))
        if numbers is None or numbers.size != 1:
            raise UnsupportedModel(f"{b.contents.where}: {b.label} pads with a number that is computed.")
        dtype = np.dtype(np.float32) if b.tensors[index].coded else b.tensors[index].dtype.numpy()
        fill = b.small(float(numbers.ravel()[0]), dtype)
    b.give(op.output(), b.call("Pad", value, pads, fill), first=first)


def _mirrored(b: Builder, value: ir.Value, index: int, axis: int, amounts: list[int], first: bool) -> ir.Value:
    """An axis with its ends repeated outwards, the edge included, which ONNX's Pad cannot."""
    tensor, (before, after) = b.tensors[index], amounts
    size = tensor.dims[axis]
    if size is None or max(before, after) > size:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} mirrors {before} and {after} elements of {size}.")
    order = np.concatenate((np.arange(before)[::-1], np.arange(size), size - 1 - np.arange(after)))
    b.spend(8 * order.size)
    return b.call("Gather", value, b.small(order.tolist()), axis=placed(axis, tensor.rank, first))


def gather(b: Builder, op: Operator) -> None:
    """GATHER."""
    table, indices = op.input(0), op.input(1)
    rank = b.tensors[table].rank
    axis = placed(op.option("axis"), rank, False)
    batch = op.option("batch_dims") % max(b.tensors[indices].rank, 1)
    if batch == 0:
        b.give(op.output(), b.call("Gather", b.read(table), b.read(indices), axis=axis))
    elif batch == axis:
        places = b.call("Unsqueeze", b.call("Cast", b.read(indices), to=ir.DataType.INT64), b.small([-1]))
        b.give(op.output(), b.call("GatherND", b.read(table), places, batch_dims=batch))
    else:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} gathers along axis {axis} with {batch} batch axes.")


def lookup(b: Builder, op: Operator) -> None:
    """EMBEDDING_LOOKUP: rows of a table."""
    b.give(op.output(), b.call("Gather", b.read(op.input(1)), b.read(op.input(0)), axis=0))


def gather_places(b: Builder, op: Operator) -> None:
    """GATHER_ND."""
    places = b.call("Cast", b.read(op.input(1)), to=ir.DataType.INT64)
    b.give(op.output(), b.call("GatherND", b.read(op.input(0)), places))


def scatter(b: Builder, op: Operator) -> None:
    """SCATTER_ND: sums of updates at places of a tensor of zeros."""
    tensor = b.tensors[op.output()]
    zero = b.small(0, np.float32 if tensor.coded else tensor.dtype.numpy())
    canvas = b.call("Expand", zero, lengths(b, op, 2))
    places = b.call("Cast", b.read(op.input(0)), to=ir.DataType.INT64)
    b.give(op.output(), b.call("ScatterND", canvas, places, b.read(op.input(1)), reduction="add"))


def reverse(b: Builder, op: Operator) -> None:
    """REVERSE_V2."""
    index, first = op.input(0), b.is_first(op.input(0))
    axes = [placed(axis, b.tensors[index].rank, first) for axis in b.integers(op, 1)]
    ends = [np.iinfo(np.int64).min] * len(axes)
    steps = b.small([-1] * len(axes))
    value = b.call("Slice", b.read(index, first=first), b.small([-1] * len(axes)), b.small(ends), b.small(axes), steps)
    b.give(op.output(), value, first=first)


def reverse_sequence(b: Builder, op: Operator) -> None:
    """REVERSE_SEQUENCE."""
    counts = b.call("Cast", b.read(op.input(1)), to=ir.DataType.INT64)
    value = b.call(
        "ReverseSequence",
        b.read(op.input(0)),
        counts,
        time_axis=op.option("seq_dim"),
        batch_axis=op.option("batch_dim"),
    )
    b.give(op.output(), value)


def tile(b: Builder, op: Operator) -> None:
    """TILE."""
    b.give(op.output(), b.call("Tile", b.read(op.input(0)), lengths(b, op, 1)))


def broadcast(b: Builder, op: Operator) -> None:
    """BROADCAST_TO."""
    b.give(op.output(), b.call("Expand", b.read(op.input(0)), lengths(b, op, 1)))


def fill(b: Builder, op: Operator) -> None:
    """FILL."""
    b.give(op.output(), b.call("Expand", b.read(op.input(1)), lengths(b, op, 0)))


def shape(b: Builder, op: Operator) -> None:
    """SHAPE, in the file's order of axes."""
    found = b.call("Shape", b.read(op.input(0)))
    b.give(op.output(), b.call("Cast", found, to=b.tensors[op.output()].dtype))


def rank(b: Builder, op: Operator) -> None:
    """RANK."""
    b.give(op.output(), b.call("Identity", b.small(b.tensors[op.input(0)].rank, np.int32)))


def sequence(b: Builder, op: Operator) -> None:
    """RANGE: of scalars; some writers give them an axis."""
    ends = [b.call("Reshape", b.read(op.input(port)), b.small([])) for port in range(3)]
    b.give(op.output(), b.call("Range", *ends))


def lengths(b: Builder, op: Operator, port: int) -> ir.Value:
    """Lengths of axes as int64."""
    given = b.data(op.input(port))
    if given is not None:
        return b.small([int(n) for n in given.ravel()])
    return b.call("Cast", b.read(op.input(port)), to=ir.DataType.INT64)


def blocks(b: Builder, op: Operator) -> None:
    """SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND: by a pad, a reshape, a transpose and a reshape, or backwards."""
    index = op.input(0)
    tensor = b.tensors[index]
    sizes, edges = b.integers(op, 1), b.integers(op, 2)
    m, rest = len(sizes), tensor.dims[1 + len(sizes) :]
    space = tensor.dims[1 : 1 + m]
    if tensor.rank < m + 1 or len(edges) != 2 * m or min(sizes, default=0) < 1 or None in (*space, *rest):
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has an open axis, or blocks that do not fit.")
    known, tail = [d or 0 for d in space], [d or 0 for d in rest]
    value = b.read(index)
    if op.kind == "SPACE_TO_BATCH_ND":
        b.give(op.output(), _to_batch(b, value, index, sizes, edges, known, tail))
    else:
        b.give(op.output(), _from_batch(b, value, index, sizes, edges, known, tail))


def _to_batch(
    b: Builder, value: ir.Value, index: int, sizes: list[int], edges: list[int], space: list[int], rest: list[int]
) -> ir.Value:
    m, none, tensor = len(sizes), [0] * len(rest), b.tensors[index]
    value = b.coded(b.call("Pad", value, b.small([0, *edges[::2], *none, 0, *edges[1::2], *none])), tensor)
    counts = [(n + sum(edges[2 * i : 2 * i + 2])) // size for i, (n, size) in enumerate(zip(space, sizes, strict=True))]
    value = b.coded(b.call("Reshape", value, b.small([-1, *_paired(counts, sizes), *rest])), tensor)
    tail = range(2 * m + 1, 2 * m + 1 + len(rest))
    value = b.coded(b.call("Transpose", value, perm=[*range(2, 2 * m + 1, 2), 0, *range(1, 2 * m, 2), *tail]), tensor)
    return b.call("Reshape", value, b.small([-1, *counts, *rest]))


def _from_batch(
    b: Builder, value: ir.Value, index: int, sizes: list[int], edges: list[int], space: list[int], rest: list[int]
) -> ir.Value:
    m, tensor = len(sizes), b.tensors[index]
    value = b.coded(b.call("Reshape", value, b.small([*sizes, -1, *space, *rest])), tensor)
    tail = range(2 * m + 1, 2 * m + 1 + len(rest))
    order = [m, *_paired(list(range(m + 1, 2 * m + 1)), list(range(m))), *tail]
    value = b.coded(b.call("Transpose", value, perm=order), tensor)
    whole = [n * size for n, size in zip(space, sizes, strict=True)]
    value = b.coded(b.call("Reshape", value, b.small([-1, *whole, *rest])), tensor)
    ends = [n - edge for n, edge in zip(whole, edges[1::2], strict=True)]
    return b.call("Slice", value, b.small(edges[::2]), b.small(ends), b.small(list(range(1, m + 1))))


def _paired(x: Sequence[int], y: Sequence[int]) -> list[int]:
    return [n for pair in zip(x, y, strict=True) for n in pair]


def depth(b: Builder, op: Operator) -> None:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH: channels in ONNX's order DCR."""
    kind = "DepthToSpace" if op.kind == "DEPTH_TO_SPACE" else "SpaceToDepth"
    value = b.call(kind, b.read(op.input(0), first=True), blocksize=op.option("block"))
    b.give(op.output(), value, first=True)
