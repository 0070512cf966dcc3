"""Windows: padding as LiteRT knows it, pooling, and reductions, which are windows as large as the value.

LiteRT pads either nothing (VALID) or so that the output has ceil(input / stride) places (SAME), with the greater half
behind. Other pads are a PAD in front, cut to what the windows read; of a MaxPool they hold the lowest number.

    ONNX                                                     LiteRT
    MaxPool                                                  MAX_POOL_2D
    AveragePool, pads counted                                PAD, AVERAGE_POOL_2D VALID
    AveragePool, pads not counted, as SAME has them          AVERAGE_POOL_2D SAME
    AveragePool, other pads not counted                      in real numbers: PAD, AVERAGE_POOL_2D, MUL by size / count
    GlobalAveragePool, ReduceMean                            MEAN
    GlobalMaxPool, ReduceMax, ReduceMin, ReduceSum, ...      REDUCE_MAX, REDUCE_MIN, SUM, ...

One spatial dimension becomes two, the first of length 1, and is taken off again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.litert.builder import NONE, Builder, Wire
from halfeven.exporters.litert.layout import channels_last, plain, without
from halfeven.graph.network import Op

SAME, VALID = 0, 1


class FixedLengthError(Exception):
    """An operator that cannot leave the length of an axis open; the file is then written with all lengths fixed."""


def refuse(op: Op, why: str) -> UnsupportedByTarget:
    """The error for an operator that LiteRT cannot express."""
    return UnsupportedByTarget(f"{op.kind} '{op.name}': {why}")


# ------------------------------------------------------------------------------------------------- padding


def pads_of(op: Op, sizes: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Pads before and after along each spatial axis, whatever way the operator states them."""
    n = len(kernel)
    strides, dilations = ints(op, "strides", [1] * n), ints(op, "dilations", [1] * n)
    auto = text(op, "auto_pad", "NOTSET")
    given = ints(op, "pads", [0] * (2 * n))
    pads = list(zip(given[:n], given[n:], strict=True)) if auto == "NOTSET" else [(0, 0)] * n
    if auto.startswith("SAME"):
        pads = []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What SAME pads before and after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def used_pads(
    sizes: Sequence[int], out: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], pads: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:  # fmt: skip
    """The pads that windows reach: what lies behind the last one is left off (negative: so much input is unread)."""
    found = []
    for size, o, k, s, d, (before, _) in zip(sizes, out, kernel, strides, dilations, pads, strict=True):
        found.append((before, (o - 1) * s + (k - 1) * d + 1 - size - before))
    return found


def pad(b: Builder, index: int, pads: Sequence[tuple[int, int]], value: float | None = None) -> int:
    """A tensor padded along all its axes, with real zero or a number."""
    source = b.tensors[index]
    shape = [d + before + after for d, (before, after) in zip(source.shape, pads, strict=True)]
    made = b.tensor(f"{source.name}_padded", shape, source, source.open)
    amounts = b.constant(np.array(pads, np.int32), "pads")
    if value is None:
        b.emit("PAD", [index, amounts], [made], "PadOptions")
        return made
    filling = np.array([value], source.dtype)
    number = b.constant(filling, "filling", source.scale, source.zero_point)
    b.emit("PADV2", [index, amounts, number], [made], "PadV2Options")
    return made


def window(
    b: Builder,
    op: Op,
    wire: Wire,
    kernel: Sequence[int],
    out: Sequence[int],
    *,
    filling: float | None = None,
    counted: bool = False,
) -> tuple[int, dict[str, Any]]:
    """The input as LiteRT's windows can read it, and the fields of padding and strides.

    `filling`: what pads hold, if not zero. `counted`: pads are written out, so that they count as input.
    """
    n = len(kernel)
    if wire.dims.open not in (None, 0):
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    strides, dilations = ints(op, "strides", [1] * n), ints(op, "dilations", [1] * n)
    sizes = wire.dims.sizes[2:]
    pads = used_pads(sizes, out, kernel, strides, dilations, pads_of(op, sizes, kernel))
    index, padding = wire.index, VALID
    wanted = [(before, max(after, 0)) for before, after in pads]
    same = [same_pads(*each) for each in zip(sizes, kernel, strides, dilations, strict=True)]
    if any(a or c for a, c in wanted):
        # SAME also where its pad behind is longer but no window more fits
        places = [-(-size // s) for size, s in zip(sizes, strides, strict=True)]
        if wanted == same and list(out) == places and filling is None and not counted:
            padding = SAME
        else:
            index = pad(b, index, [(0, 0), *wanted, (0, 0)], filling)
    strides, dilations = ([1, *v] if n == 1 else v for v in (strides, dilations))
    return index, {"padding": padding, "strideH": strides[0], "strideW": strides[1],
                   "dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}  # fmt: skip


def ints(op: Op, name: str, default: Sequence[int]) -> list[int]:
    """An attribute of integers."""
    return [int(v) for v in op.attributes.get(name) or default]


def text(op: Op, name: str, default: str) -> str:
    """An attribute of text."""
    found = op.attributes.get(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def close_window(
    b: Builder, op: Op, code: str, inputs: Sequence[int], options: str, fields: dict[str, Any], *, flat: bool
) -> None:
    """The operator; one of one spatial dimension is computed with a height of 1, which is taken off again."""
    output = op.outputs[0]
    order = channels_last(b.dims(output).rank)
    if not flat:
        b.close(op, code, inputs, order, options, **fields)
        return
    sizes = b.dims(output).sizes
    tall = replace(output, name=b.name(f"{output.name}_tall"), shape=(*sizes[:2], 1, *sizes[2:]))
    open_axis = b.open.get(output.name)
    b.open = {**b.open, **({tall.name: open_axis} if open_axis is not None else {})}
    b.close(replace(op, outputs=(tall,)), code, inputs, channels_last(4), options, **fields)
    b.emit_reshape(b.wires[tall.name].index, b.output(output, order))


def taller(b: Builder, index: int) -> int:
    """(N, L, C) as (N, 1, L, C)."""
    source = b.tensors[index]
    shape = (source.shape[0], 1, *source.shape[1:])
    return b.reshape(index, shape, f"{source.name}_tall", source.open)


# ------------------------------------------------------------------------------------------------- pooling


def max_pool(b: Builder, op: Op) -> None:
    """MaxPool."""
    x = op.inputs[0]
    assert x is not None
    kernel = ints(op, "kernel_shape", [])
    if len(kernel) not in (1, 2) or set(ints(op, "dilations", [1])) != {1}:
        raise refuse(op, "LiteRT has MAX_POOL_2D only, without dilations.")
    wire = b.operand(x, channels_last(len(kernel) + 2))
    lowest = float(np.finfo(np.float32).min)
    if x.params is not None:
        lowest = float(x.params.scheme.grid.low)
    index, fields = window(b, op, wire, kernel, b.dims(op.outputs[0]).sizes[2:], filling=lowest)
    _pool(b, op, "MAX_POOL_2D", index, kernel, fields)


def average_pool(b: Builder, op: Op) -> None:
    """AveragePool."""
    x = op.inputs[0]
    assert x is not None
    kernel = ints(op, "kernel_shape", [])
    if len(kernel) not in (1, 2) or set(ints(op, "dilations", [1])) != {1}:
        raise refuse(op, "LiteRT has AVERAGE_POOL_2D only, without dilations.")
    wire, out = b.operand(x, channels_last(len(kernel) + 2)), b.dims(op.outputs[0]).sizes[2:]
    ratio = counting(op, wire.dims.sizes[2:], out)
    include = bool(op.attributes.get("count_include_pad", 0))
    index, fields = window(b, op, wire, kernel, out, counted=include or ratio is not None)
    if ratio is None:
        _pool(b, op, "AVERAGE_POOL_2D", index, kernel, fields)
        return
    uncorrected = replace(op.outputs[0], name=b.name(f"{op.outputs[0].name}_uncorrected"))
    if b.dims(op.outputs[0]).open is not None:
        b.open = {**b.open, uncorrected.name: 0}
    _pool(b, replace(op, outputs=(uncorrected,), clamp=None), "AVERAGE_POOL_2D", index, kernel, fields)
    order = channels_last(len(kernel) + 2)
    factor = b.constant(ratio[None, ..., None], f"{op.name}_ratio")
    b.close(op, "MUL", [b.wires[uncorrected.name].index, factor], order, "MulOptions", fusedActivationFunction=NONE)


def counting(op: Op, sizes: Sequence[int], out: Sequence[int]) -> np.ndarray | None:
    """By what an average over all of a window is to be multiplied, for each place; None if LiteRT averages as ONNX."""
    kernel = ints(op, "kernel_shape", [])
    n = len(kernel)
    strides, pads = ints(op, "strides", [1] * n), pads_of(op, sizes, kernel)
    include = bool(op.attributes.get("count_include_pad", 0))
    ratio = np.ones((1,) * n, np.float32)
    for axis, (size, o, k, s, (before, after)) in enumerate(zip(sizes, out, kernel, strides, pads, strict=True)):
        starts = np.arange(o) * s - before
        low, high = (-before, size + after) if include else (0, size)
        inside = np.minimum(starts + k, high) - np.maximum(starts, low)
        ratio = ratio * (k / inside).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(n)])
    if (ratio == 1).all():
        return None
    used = used_pads(sizes, out, kernel, strides, [1] * n, pads)
    same = [same_pads(*each, 1) for each in zip(sizes, kernel, strides, strict=True)]
    places = [-(-size // s) for size, s in zip(sizes, strides, strict=True)]
    return None if not include and used == same and list(out) == places else ratio


def _pool(b: Builder, op: Op, code: str, index: int, kernel: Sequence[int], fields: dict[str, Any]) -> None:
    flat = len(kernel) == 1
    height, width = (1, kernel[0]) if flat else kernel
    options = {k: v for k, v in fields.items() if not k.startswith("dilation")}
    options.update(filterHeight=height, filterWidth=width, fusedActivationFunction=NONE)
    inputs = [taller(b, index) if flat else index]
    close_window(b, op, code, inputs, "Pool2DOptions", options, flat=flat)


# ---------------------------------------------------------------------------------------------- reductions

REDUCTIONS = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
    "GlobalAveragePool": "MEAN",
    "GlobalMaxPool": "REDUCE_MAX",
}


def reduce(b: Builder, op: Op) -> None:
    """Reductions over axes, and global pools, which are reductions over the spatial ones."""
    x = op.inputs[0]
    assert x is not None
    wire = b.wire(x)
    rank = wire.dims.rank
    keep = bool(op.attributes.get("keepdims", 1))
    axes = list(range(2, rank)) if op.kind.startswith("Global") else reduced_axes(op, rank)
    order = wire.order if keep else without(wire.order, axes)
    stored = b.numbers(sorted(wire.order.index(a) for a in axes), "axes")
    b.close(op, REDUCTIONS[op.kind], [wire.index, stored], order, "ReducerOptions", keepDims=keep)


def reduced_axes(op: Op, rank: int) -> list[int]:
    """The axes that go, from the attribute or the second operand; all where neither names any."""
    given = op.inputs[1] if len(op.inputs) > 1 else None
    if given is not None and given.data is None:
        raise refuse(op, "its axes are computed at run time; LiteRT's kernels need constants.")
    found = ints(op, "axes", []) if given is None else [int(a) for a in np.asarray(given.data).ravel()]
    return [a % rank for a in found] or list(plain(rank))
