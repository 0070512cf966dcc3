"""Operators along axes: sums and extremes, places of extremes, running sums, one-hot codes, resizing.

    MEAN of all places of a picture    GlobalAveragePool, as runtimes have integer kernels for it; else ReduceMean
    ARG_MAX, ARG_MIN, TOPK_V2          int64 in ONNX, cast to the file's type
    RESIZE_BILINEAR                    Resize, linear:   half_pixel, align_corners, or asymmetric
    RESIZE_NEAREST_NEIGHBOR            Resize, nearest:  the same, rounded half up, half up, down

Sources: tensorflow/lite/kernels/internal/reference/resize_bilinear.h, resize_nearest_neighbor.h; the ONNX operators.
"""

from collections.abc import Mapping

import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.layout import placed, to_first

REDUCTIONS: Mapping[str, str] = {
    "MEAN": "ReduceMean",
    "REDUCE_ALL": "ReduceMin",
    "REDUCE_ANY": "ReduceMax",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
    "SUM": "ReduceSum",
}


def reduce(b: Builder, op: Operator) -> None:
    """An operator of `REDUCTIONS`, over constant axes."""
    index, out, keep = op.input(0), op.output(), op.option("keep_dims")
    tensor = b.tensors[index]
    axes = sorted({axis % max(tensor.rank, 1) for axis in b.integers(op, 1)})
    if op.kind == "MEAN" and tensor.rank == 4 and axes == [1, 2] and b.is_first(index):
        value = b.call("GlobalAveragePool", b.read(index, first=True))
        if not keep:
            value = b.call("Flatten", b.coded(value, b.tensors[out]), axis=1)
        b.give(out, value, first=bool(keep))
        return
    left = [axis for axis in to_first(tensor.rank) if axis not in axes] if tensor.rank > 2 else []
    first = b.is_first(index) and (bool(keep) or left == sorted(left))
    places = b.small([placed(axis, tensor.rank, first) for axis in axes])
    value = b.read(index, first=first)
    if op.kind in ("REDUCE_ALL", "REDUCE_ANY"):
        value = b.call("Cast", value, to=ir.DataType.INT32)
    kept = {"keepdims": int(bool(keep)), "noop_with_empty_axes": 1}
    value = b.call(REDUCTIONS[op.kind], value, places, **kept)
    if op.kind in ("REDUCE_ALL", "REDUCE_ANY"):
        value = b.call("Cast", value, to=ir.DataType.BOOL)
    b.give(out, value, first=first and bool(keep))


def extreme(b: Builder, op: Operator) -> None:
    """ARG_MAX and ARG_MIN: the first place of the extreme."""
    index, (axis,) = op.input(0), b.integers(op, 1)
    at = placed(axis, b.tensors[index].rank, False)
    found = b.call("ArgMax" if op.kind == "ARG_MAX" else "ArgMin", b.read(index), axis=at, keepdims=0)
    b.give(op.output(), b.call("Cast", found, to=b.tensors[op.output()].dtype))


def largest(b: Builder, op: Operator) -> None:
    """TOPK_V2, along the last axis."""
    count = b.call("Reshape", b.call("Cast", b.read(op.input(1)), to=ir.DataType.INT64), b.small([1]))
    values, places = b.call_many("TopK", 2, b.read(op.input(0)), count, axis=-1)
    b.give(op.output(0), values)
    b.give(op.output(1), b.call("Cast", places, to=b.tensors[op.output(1)].dtype))


def running_sum(b: Builder, op: Operator) -> None:
    """CUMSUM."""
    (axis,) = b.integers(op, 1)
    at = b.small(placed(axis, b.tensors[op.input(0)].rank, False))
    flags = {"exclusive": op.option("exclusive"), "reverse": op.option("reverse")}
    b.give(op.output(), b.call("CumSum", b.read(op.input(0)), at, **flags))


def one_hot(b: Builder, op: Operator) -> None:
    """ONE_HOT of indices that are not negative."""
    depth = b.call("Reshape", b.read(op.input(1)), b.small([1]))
    on, off = (b.call("Reshape", b.read(op.input(port)), b.small([1])) for port in (2, 3))
    values = b.call("Concat", off, on, axis=0)
    b.give(op.output(), b.call("OneHot", b.read(op.input(0)), depth, values, axis=op.option("axis")))


def where(b: Builder, op: Operator) -> None:
    """WHERE: the places of what is true, a row each."""
    places = b.call("Transpose", b.call("NonZero", b.read(op.input(0))), perm=(1, 0))
    b.give(op.output(), b.call("Cast", places, to=b.tensors[op.output()].dtype))


def resize(b: Builder, op: Operator) -> None:
    """RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR to a constant size."""
    index = op.input(0)
    tensor, sizes = b.tensors[index], b.integers(op, 1)
    if tensor.rank != 4 or len(sizes) != 2 or min(sizes) < 1:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} resizes {list(tensor.dims)} to {sizes}.")
    corners, centers = bool(op.option("align_corners")), bool(op.option("half_pixel_centers"))
    linear = op.kind == "RESIZE_BILINEAR"
    batch, _, _, channels = tensor.dims
    whole = batch is not None and channels is not None
    value = b.call(
        "Resize",
        b.read(index, first=True),
        None,
        None,
        b.small([batch or 0, channels or 0, *sizes] if whole else sizes),
        axes=None if whole else [2, 3],
        mode="linear" if linear else "nearest",
        coordinate_transformation_mode="align_corners" if corners else "half_pixel" if centers else "asymmetric",
        nearest_mode=None if linear else "round_prefer_ceil" if corners or centers else "floor",
    )
    b.give(op.output(), value, first=True)
