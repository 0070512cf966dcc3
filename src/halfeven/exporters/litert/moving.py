"""Operators that move values about: where possible they rename axes, and nothing is written.

Transpose, Identity                         nothing: the order of the axes changes its name
Reshape, Flatten, Squeeze, Unsqueeze        RESHAPE, of memory as it lies if `layout.regroup` can express it
Flatten in front of a constant matrix       RESHAPE as it lies, and the matrix' columns in that order
Slice, Split, Concat, Pad, Gather, Tile     STRIDED_SLICE, SPLIT or SPLIT_V, CONCATENATION, PAD, GATHER, TILE; a Slice
                                            of more than four axes is SLICE where it leaves none out
Expand                                      BROADCAST_TO
DepthToSpace, SpaceToDepth                  the same; of the mode CRD channels are gathered in front
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfeven.exporters.litert.builder import NONE, Builder, Wire
from halfeven.exporters.litert.elementwise import common_order
from halfeven.exporters.litert.layout import Dims, Order, channels_last, plain, regroup, without
from halfeven.exporters.litert.windows import FixedLengthError, ints, pad, refuse, text
from halfeven.graph.network import Op, Tensor

MICRO_STRIDED = 4  # axes that STRIDED_SLICE of TensorFlow Lite Micro has at most; its SLICE has five


def given(op: Op, port: int, what: str) -> npt.NDArray[np.generic] | None:
    """A constant operand; None where it is left out."""
    tensor = op.inputs[port] if port < len(op.inputs) else None
    if tensor is None:
        return None
    if tensor.data is None:
        raise refuse(op, f"its {what} are computed at run time; LiteRT's kernels need constants.")
    return tensor.data


def first(op: Op) -> Tensor:
    """The first operand."""
    x = op.inputs[0]
    assert x is not None
    return x


def identity(b: Builder, op: Op) -> None:
    """Identity and Dropout."""
    b.wires[op.outputs[0].name] = b.wire(first(op))


def transpose(b: Builder, op: Op) -> None:
    """Transpose."""
    wire = b.wire(first(op))
    axes = ints(op, "perm", list(reversed(range(wire.dims.rank))))
    order = tuple(axes.index(a) for a in wire.order)
    b.wires[op.outputs[0].name] = Wire(wire.index, order, b.dims(op.outputs[0]))


def reshape(b: Builder, op: Op) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    x, output = first(op), op.outputs[0]
    wire, dims = b.wire(x), b.dims(output)
    order = regroup(wire.dims, wire.order, dims)
    if order is not None:
        _reshaped(b, wire, output, order)
        return
    columns = _columns(b, wire, output, dims)
    if columns is not None:
        _reshaped(b, wire, output, plain(2))
        b.columns[output.name] = columns
        return
    _reshaped(b, b.arrange(wire, plain(wire.dims.rank)), output, plain(dims.rank))


def _reshaped(b: Builder, wire: Wire, output: Tensor, order: Order) -> None:
    dims = b.dims(output)
    source = b.tensors[wire.index]
    if source.shape == dims.stored(order) and source.open == dims.stored_open(order):
        b.wires[output.name] = Wire(wire.index, order, dims)
        return
    b.emit_reshape(wire.index, b.output(output, order))


def _columns(b: Builder, wire: Wire, output: Tensor, dims: Dims) -> npt.NDArray[np.intp] | None:
    """Which ONNX column each column is, where rows are flattened for constant matrices only."""
    users = b.readers.get(output.name, ())
    matrices = all(
        user.kind in ("Gemm", "MatMul")
        and (t := user.inputs[0]) is not None
        and t.name == output.name
        and (w := user.inputs[1]) is not None
        and w.constant is not None
        and len(w.constant.shape) == 2
        and not user.attributes.get("transA", 0)
        for user in users
    )
    if not users or not matrices or dims.rank != 2 or wire.order[0] != 0 or output.name in b.results:
        return None
    if wire.dims.sizes[0] != dims.sizes[0] or wire.dims.open != dims.open:
        return None
    places = np.arange(dims.sizes[1]).reshape(wire.dims.sizes[1:])
    return places.transpose([a - 1 for a in wire.order[1:]]).ravel()


def expand(b: Builder, op: Op) -> None:
    """Expand."""
    x, output = first(op), op.outputs[0]
    dims = b.dims(output)
    if dims.open is not None:
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    wire = b.wire(x)
    if wire.dims.sizes == dims.sizes:
        b.wires[output.name] = wire
        return
    order = common_order(b, [x], dims.rank)
    shape = b.numbers(dims.stored(order), "shape")
    b.emit("BROADCAST_TO", [b.operand(x, order).index, shape], [b.output(output, order)], "BroadcastToOptions")


def tile(b: Builder, op: Op) -> None:
    """Tile."""
    wire, repeats = b.wire(first(op)), given(op, 1, "repeats")
    assert repeats is not None
    counts = [int(repeats[a]) for a in wire.order]
    if wire.dims.open is not None and repeats[wire.dims.open] != 1:
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    made = b.output(op.outputs[0], wire.order)
    b.emit("TILE", [wire.index, b.numbers(counts, "repeats")], [made], "TileOptions")


def concat(b: Builder, op: Op) -> None:
    """Concat."""
    inputs, rank = [t for t in op.inputs if t is not None], b.dims(op.outputs[0]).rank
    order = common_order(b, inputs, rank)
    axis = order.index(int(op.attributes["axis"]) % rank)
    indices = [b.operand(t, order).index for t in inputs]
    b.close(op, "CONCATENATION", indices, order, "ConcatenationOptions", axis=axis, fusedActivationFunction=NONE)


def split(b: Builder, op: Op) -> None:
    """Split."""
    wire = b.wire(first(op))
    axis = wire.order.index(int(op.attributes.get("axis", 0)) % wire.dims.rank)
    if axis == wire.dims.stored_open(wire.order):
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    made = [b.output(output, wire.order) for output in op.outputs]
    sizes = [b.tensors[index].shape[axis] for index in made]
    place = b.constant(np.array(axis, np.int32), "axis")
    if len(set(sizes)) == 1:
        b.emit("SPLIT", [place, wire.index], made, "SplitOptions", numSplits=len(made))
        return
    b.emit("SPLIT_V", [wire.index, b.numbers(sizes, "sizes"), place], made, "SplitVOptions", numSplits=len(made))


def slice_(b: Builder, op: Op) -> None:
    """Slice."""
    wire = b.wire(first(op))
    rank = wire.dims.rank
    starts, ends = (given(op, p, n) for p, n in ((1, "starts"), (2, "ends")))
    begin = [int(v) for v in (ints(op, "starts", []) if starts is None else starts)]
    end = [int(v) for v in (ints(op, "ends", []) if ends is None else ends)]
    named, stepped = given(op, 3, "axes"), given(op, 4, "steps")
    axes = [int(a) % rank for a in (ints(op, "axes", range(len(begin))) if named is None else named)]
    steps = [1] * len(begin) if stepped is None else [int(s) for s in stepped]
    whole = {axis: (0, size, 1) for axis, size in enumerate(wire.dims.sizes)}
    for axis, low, high, step in zip(axes, begin, end, steps, strict=True):
        if axis == wire.dims.open:
            raise FixedLengthError(f"{op.kind} '{op.name}'")
        whole[axis] = (low, high, step)
    _strided(b, wire, op.outputs[0], whole, set(axes))


def _strided(
    b: Builder, wire: Wire, output: Tensor, ranges: dict[int, tuple[int, int, int]], touched: set[int]
) -> None:
    rows, ends_open = [], 0
    for place, axis in enumerate(wire.order):
        low, high, step = ranges[axis]
        first_, last, stride = slice(low, high, step).indices(wire.dims.sizes[axis])
        rows.append((first_, max(last, 0), stride))
        if axis not in touched or last < 0:
            ends_open |= 1 << place
    made = b.output(output, wire.order)
    if len(rows) > MICRO_STRIDED and all(stride == 1 for _, _, stride in rows):
        lengths = [-1 if ends_open >> place & 1 else max(last - low, 0) for place, (low, last, _) in enumerate(rows)]
        begin, size = b.numbers([low for low, _, _ in rows], "begin"), b.numbers(lengths, "size")
        b.emit("SLICE", [wire.index, begin, size], [made], "SliceOptions")
        return
    columns = zip(("begin", "end", "strides"), zip(*rows, strict=True), strict=True)
    begin, end, strides = (b.numbers(column, name) for name, column in columns)
    b.emit("STRIDED_SLICE", [wire.index, begin, end, strides], [made], "StridedSliceOptions", endMask=ends_open)


def pad_(b: Builder, op: Op) -> None:
    """Pad."""
    wire, mode = b.wire(first(op)), text(op, "mode", "constant")
    rank = wire.dims.rank
    told = given(op, 1, "pads")
    amounts = ints(op, "pads", []) if told is None else [int(p) for p in told]
    named = given(op, 3, "axes")
    axes = list(range(rank)) if named is None else [int(a) % rank for a in named]
    pads = {a: (amounts[i], amounts[i + len(axes)]) for i, a in enumerate(axes)}
    if any(p < 0 for pair in pads.values() for p in pair):
        raise refuse(op, "it cuts by negative pads, which LiteRT's PAD does not.")
    if wire.dims.open is not None and pads.get(wire.dims.open, (0, 0)) != (0, 0):
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    stored = [pads.get(a, (0, 0)) for a in wire.order]
    if mode == "constant":
        value = given(op, 2, "filling")
        real = float(op.attributes.get("value", 0.0) if value is None else np.asarray(value).ravel()[0])
        if real and wire.dims.rank and b.tensors[wire.index].scale is not None:
            raise refuse(op, "it fills codes with another value than zero.")
        _name_as(b, pad(b, wire.index, stored, real or None), op.outputs[0], wire.order)
        return
    if mode != "reflect":
        raise refuse(op, f"LiteRT has no padding of mode {mode}.")
    made = b.output(op.outputs[0], wire.order)
    b.emit("MIRROR_PAD", [wire.index, b.constant(np.array(stored, np.int32), "pads")], [made], "MirrorPadOptions")


def _name_as(b: Builder, index: int, output: Tensor, order: Order) -> None:
    """Let a tensor that has been made stand for a value."""
    b.wires[output.name] = Wire(index, order, b.dims(output))


def gather(b: Builder, op: Op) -> None:
    """Gather; constant indices count from the front."""
    x, indices = op.inputs[:2]
    assert x is not None
    assert indices is not None
    wire, at = b.wire(x), b.dims(indices)
    axis = int(op.attributes.get("axis", 0)) % wire.dims.rank
    if axis == wire.dims.open:
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    if at.rank > 1:
        wire = b.arrange(wire, plain(wire.dims.rank))
    order = wire.order if at.rank == 1 else without(wire.order, [axis])
    if at.rank > 1:
        order = plain(wire.dims.rank - 1 + at.rank)
    if indices.data is not None:
        size = wire.dims.sizes[axis]
        places = b.constant((indices.data.astype(np.int64) % size).astype(np.int32), "indices")
    else:
        places = b.operand(indices, plain(at.rank)).index
    made = b.output(op.outputs[0], order)
    b.emit("GATHER", [wire.index, places], [made], "GatherOptions", axis=wire.order.index(axis))


def pick(b: Builder, index: int, axis: int, places: Sequence[int], name: str) -> int:
    """Of one stored axis, the entries at `places`."""
    source = b.tensors[index]
    shape = [len(places) if i == axis else d for i, d in enumerate(source.shape)]
    made = b.tensor(name, shape, source, source.open)
    b.emit("GATHER", [index, b.numbers(list(places), "indices")], [made], "GatherOptions", axis=axis)
    return made


def depth_space(b: Builder, op: Op) -> None:
    """DepthToSpace and SpaceToDepth."""
    wire, block = b.operand(first(op), channels_last(4)), int(op.attributes["blocksize"])
    index = wire.index
    if op.kind == "DepthToSpace" and text(op, "mode", "DCR") == "CRD":
        places = np.arange(wire.dims.sizes[1]).reshape(-1, block, block).transpose(1, 2, 0).ravel()
        index = pick(b, index, 3, [int(p) for p in places], f"{op.name}_channels")
    code = "DEPTH_TO_SPACE" if op.kind == "DepthToSpace" else "SPACE_TO_DEPTH"
    made = b.output(op.outputs[0], channels_last(4))
    b.emit(code, [index], [made], f"{op.kind}Options", blockSize=block)


def arg_best(b: Builder, op: Op) -> None:
    """ArgMax and ArgMin, of which ties go to the first."""
    wire, output = b.wire(first(op)), op.outputs[0]
    if op.attributes.get("select_last_index", 0):
        raise refuse(op, "LiteRT takes the first of equals, not the last.")
    axis = int(op.attributes.get("axis", 0)) % wire.dims.rank
    shape = tuple(d for place, d in enumerate(b.tensors[wire.index].shape) if wire.order[place] != axis)
    code = "ARG_MAX" if op.kind == "ArgMax" else "ARG_MIN"
    place = b.numbers([wire.order.index(axis)], "axis")
    order = wire.order if op.attributes.get("keepdims", 1) else without(wire.order, [axis])
    made = b.output(output, order)
    target = made
    if op.attributes.get("keepdims", 1):
        kept = wire.dims.stored_open(wire.order)
        open_axis = None if kept is None or wire.dims.open == axis else kept - (kept > wire.order.index(axis))
        target = b.tensor(f"{output.name}_flat", shape, b.tensors[made], open_axis)
    kind = 2 if b.tensors[made].dtype == "int32" else 4  # the schema's INT32 and INT64
    b.emit(code, [wire.index, place], [target], f"{op.kind}Options", outputType=kind)
    if target != made:
        b.emit_reshape(target, made)
