"""SLICE and STRIDED_SLICE as ONNX's Slice, which counts from the end and clips alike.

    SLICE          begin, size; a size of -1 is all that is left
    STRIDED_SLICE  begin, end, strides, an entry for each axis, and masks with a bit for each entry
                   begin_mask, end_mask: from where, to where the axis goes    ellipsis_mask: all axes not named
                   new_axis_mask: an axis of length 1, none of the data's      shrink_mask: one index, the axis goes

Source: tensorflow/lite/kernels/strided_slice.cc.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.layout import placed

LAST, BEFORE_FIRST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def piece(b: Builder, op: Operator) -> None:
    """SLICE."""
    index = op.input(0)
    if b.data(op.input(1)) is None or b.data(op.input(2)) is None:
        b.give(op.output(), _computed(b, op))
        return
    rank, first = b.tensors[index].rank, b.is_first(index)
    starts, sizes = b.integers(op, 1), b.integers(op, 2)
    if len(starts) != rank or len(sizes) != rank:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} slices {len(starts)} of {rank} axes.")
    ends = [LAST if n < 0 else start + n for start, n in zip(starts, sizes, strict=True)]
    axes = [placed(axis, rank, first) for axis in range(rank)]
    value = b.call("Slice", b.read(index, first=first), b.small(starts), b.small(ends), b.small(axes))
    b.give(op.output(), value, first=first)


def _computed(b: Builder, op: Operator) -> ir.Value:
    """A slice whose begin or size is known only when it runs."""
    starts, sizes = (b.call("Cast", b.read(op.input(port)), to=ir.DataType.INT64) for port in (1, 2))
    ends = b.call("Where", b.call("Less", sizes, b.small(0)), b.small(LAST), b.call("Add", starts, sizes))
    return b.call("Slice", b.read(op.input(0)), starts, ends)


@dataclass
class _Cut:
    """What a STRIDED_SLICE does: cuts by axis, axes of the data that go, axes of the result that come."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    axes: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)


def strided(b: Builder, op: Operator) -> None:
    """STRIDED_SLICE."""
    index = op.input(0)
    tensor, rank = b.tensors[index], b.tensors[index].rank
    cut = _cut(b, op, rank)
    first = b.is_first(index) and not (cut.gone or cut.new)
    value = b.read(index, first=first)
    if cut.axes:
        axes = [placed(axis, rank, first) for axis in cut.axes]
        value = b.call("Slice", value, *(b.small(n) for n in (cut.starts, cut.ends, axes, cut.steps)))
        value = b.coded(value, tensor) if cut.gone or cut.new else value
    if cut.gone:
        value = b.call("Squeeze", value, b.small(cut.gone))
        value = b.coded(value, tensor) if cut.new else value
    if cut.new:
        value = b.call("Unsqueeze", value, b.small(cut.new))
    if not (cut.axes or cut.new):
        value = b.call("Identity", value)
    b.give(op.output(), value, first=first)


def _cut(b: Builder, op: Operator, rank: int) -> _Cut:
    begins, ends, steps = (b.integers(op, port) for port in (1, 2, 3))
    new, dots = op.option("new_axis_mask"), op.option("ellipsis_mask")
    entries = range(len(begins))
    named = sum(not (new | dots) >> i & 1 for i in entries)
    fits = len(begins) == len(ends) == len(steps) and named <= rank and bin(dots).count("1") <= 1
    if not fits or 0 in steps or max(map(abs, steps), default=1) > LAST or len(begins) > 2 * rank + 8:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has entries that do not fit its {rank} axes.")
    cut, axis, place = _Cut(), 0, 0
    for i in entries:
        if dots >> i & 1:
            axis, place = axis + rank - named, place + rank - named
        elif new >> i & 1:
            cut.new.append(place)
            place += 1
        else:
            _entry(cut, op, i, axis, begins[i], ends[i], steps[i])
            place += not op.option("shrink_mask") >> i & 1
            axis += 1
    return cut


def _entry(cut: _Cut, op: Operator, i: int, axis: int, begin: int, end: int, step: int) -> None:
    """One axis of the data cut."""
    if op.option("shrink_mask") >> i & 1:
        start, stop, step = begin, LAST if begin == -1 else begin + 1, 1
        cut.gone.append(axis)
    else:
        from_start, to_end = op.option("begin_mask") >> i & 1, op.option("end_mask") >> i & 1
        end = begin + end if op.option("offset") else end
        start = (0 if step > 0 else LAST) if from_start else begin
        stop = (LAST if step > 0 else BEFORE_FIRST) if to_end else end
        if (start, stop, step) == (0, LAST, 1):
            return
    cut.starts.append(start)
    cut.ends.append(stop)
    cut.steps.append(step)
    cut.axes.append(axis)
