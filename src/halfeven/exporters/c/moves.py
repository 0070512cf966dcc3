"""Operators that move codes about: one kernel, told where each axis begins and how far its neighbours are apart.

    Reshape, Flatten, Squeeze, Unsqueeze     nothing is moved: the same storage under another shape
    Transpose                                steps in another order
    Slice, Split                             a start, and steps that may be negative
    Expand                                   steps of 0
    Concat                                   a start in the output, for each operand
    Pad                                      the output is filled, then its inside written; other modes by lists
    Resize, mode nearest                     a list along each axis that changes

Codes that mean something else than the output's are recoded first.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from halfeven.exporters.c.blocks import RANK, Shape, filled, merged, repeated, strides
from halfeven.exporters.c.layers import CHECK
from halfeven.exporters.c.program import Array, Field, Program, Values, attribute, axis_of, ranked, refuse
from halfeven.graph.network import Op
from halfeven.numerics.nearest import nearest_positions, resized
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams


def _given(program: Program, op: Op, index: int = 0) -> tuple[str, Shape]:
    """The operand, in the codes of output `index`."""
    name, shape, params = program.operand(op, 0)
    return program.recoded(op, name, shape, params, index), shape


def _whole(program: Program, op: Op, port: int, name: str = "") -> list[int] | None:
    """Whole numbers given by an attribute, or by an input that does not depend on data; None where absent."""
    listed = attribute(op, name, None) if name else None
    if listed is not None:
        return [int(v) for v in listed] if isinstance(listed, Sequence) else [int(listed)]
    tensor = op.inputs[port] if port < len(op.inputs) else None
    if tensor is None:
        return None
    values = program.known(tensor)
    if values is None:
        refuse(op, f"its input '{tensor.name}' is computed from data", "Make it constant.")
    return [int(v) for v in values.ravel()]


def _move(
    program: Program,
    op: Op,
    source: str,
    output: str,
    lengths: Sequence[int],
    from_steps: Sequence[int],
    to_steps: Sequence[int],
    starts: tuple[int, int] = (0, 0),
    lists: Sequence[Values | None] = (),
) -> None:
    """One call; `lists` gives, for an axis, where its inputs lie, in elements."""
    held: list[Array | None] = []
    if any(one is not None for one in lists):
        kept, steps = tuple(lengths), [tuple(from_steps), tuple(to_steps)]
        held = [None if one is None else program.array(one, np.int32, f"places of {op.name}") for one in lists]
    else:
        kept, steps = merged(lengths, from_steps, to_steps)
    fields: dict[str, Field] = {
        "count": prod(kept[:-1]),
        "rank": ranked(op, kept),
        "length": filled(kept),
        "x_start": starts[0],
        "x_step": filled(steps[0]),
        "y_start": starts[1],
        "y_step": filled(steps[1]),
        "list": (*held, *[None] * (RANK - len(held))),
    }
    program.call(op, "move", (source,), output, **fields)


def reshape(program: Program, op: Op) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze."""
    name, shape = _given(program, op)
    program.alias(op, name, _new_shape(program, op, shape))


def _new_shape(program: Program, op: Op, shape: Shape) -> Shape:
    if op.kind == "Identity":
        return shape
    if op.kind == "Flatten":
        axis = int(attribute(op, "axis", 1))
        axis = axis_of(op, axis, len(shape)) if axis != len(shape) else axis
        return (prod(shape[:axis]), prod(shape[axis:]))
    if op.kind == "Squeeze":
        axes = _whole(program, op, 1, "axes") or [i for i, n in enumerate(shape) if n == 1]
        gone = {axis_of(op, axis, len(shape)) for axis in axes}
        return tuple(n for i, n in enumerate(shape) if i not in gone)
    if op.kind == "Unsqueeze":
        new = _whole(program, op, 1, "axes") or []
        places = {axis_of(op, axis, len(shape) + len(new)) for axis in new}
        rest = iter(shape)
        return tuple(1 if i in places else next(rest) for i in range(len(shape) + len(new)))
    wanted = _whole(program, op, 1, "shape")
    if wanted is None:
        refuse(op, "its shape is not known", "Make it constant.")
    keep = not attribute(op, "allowzero", 0)
    sizes = [shape[i] if n == 0 and keep else n for i, n in enumerate(wanted)]
    rest_size = prod(n for n in sizes if n != -1)
    if rest_size < 1 or prod(shape) % rest_size or (-1 not in sizes and rest_size != prod(shape)):
        refuse(op, f"codes of shape {list(shape)} do not fill {wanted}", "Export the model again for this input shape.")
    return tuple(prod(shape) // rest_size if n == -1 else n for n in sizes)


def transpose(program: Program, op: Op) -> None:
    """Transpose."""
    name, shape = _given(program, op)
    order = [int(axis) for axis in attribute(op, "perm", range(len(shape))[::-1])]
    if sorted(order) != list(range(len(shape))):
        refuse(op, f"{order} is no order of {len(shape)} axes", CHECK)
    made = tuple(shape[axis] for axis in order)
    steps = strides(shape)
    if merged(made, [steps[axis] for axis in order])[1][0] in ((1,), (0,)):
        program.alias(op, name, made)
        return
    _move(program, op, name, program.output(op, made), made, [steps[axis] for axis in order], strides(made))


def slice_of(program: Program, op: Op) -> None:
    """Slice."""
    name, shape = _given(program, op)
    starts, ends = _whole(program, op, 1, "starts"), _whole(program, op, 2, "ends")
    assert starts is not None
    assert ends is not None
    axes = _whole(program, op, 3, "axes") or list(range(len(starts)))
    hops = _whole(program, op, 4) or [1] * len(starts)
    ranges = [range(n) for n in shape]
    for axis, start, end, hop in zip(axes, starts, ends, hops, strict=True):
        ranges[axis] = range(*slice(start, end, hop).indices(shape[axis]))
    _cut(program, op, name, shape, ranges, 0)


def _cut(program: Program, op: Op, name: str, shape: Shape, ranges: Sequence[range], index: int) -> None:
    """The part of a tensor that `ranges` name, one for each axis."""
    made, steps = tuple(len(r) for r in ranges), strides(shape)
    output = program.output(op, made, index)
    start = sum(r.start * step for r, step in zip(ranges, steps, strict=True))
    hops = [r.step * step for r, step in zip(ranges, steps, strict=True)]
    _move(program, op, name, output, made, hops, strides(made), (start, 0))


def split(program: Program, op: Op) -> None:
    """Split: outputs that nobody reads are not made."""
    _, shape, _ = program.operand(op, 0)
    axis = axis_of(op, int(attribute(op, "axis", 0)), len(shape))
    sizes = _whole(program, op, 1, "split")
    if sizes is None:
        each = -(-shape[axis] // len(op.outputs))
        sizes = [min(each, shape[axis] - i * each) for i in range(len(op.outputs))]
    if sum(sizes) != shape[axis] or len(sizes) != len(op.outputs):
        refuse(op, f"parts of {sizes} do not make {shape[axis]}", CHECK)
    at = 0
    for index, size in enumerate(sizes):
        ranges = [range(n) for n in shape]
        ranges[axis] = range(at, at + size)
        at += size
        if op.outputs[index].name and program.readers.get(op.outputs[index].name, 0):
            _cut(program, op, _given(program, op, index)[0], shape, ranges, index)


def expand(program: Program, op: Op) -> None:
    """Expand."""
    name, shape = _given(program, op)
    wanted = _whole(program, op, 1)
    made = tuple(int(n) for n in np.broadcast_shapes(shape, tuple(wanted or ())))
    _move(program, op, name, program.output(op, made), made, repeated(shape, made), strides(made))


def concat(program: Program, op: Op) -> None:
    """Concat; constants among its operands are copied like the rest."""
    parts: list[tuple[str, Shape]] = []
    for port in range(len(op.inputs)):
        name, shape, params = program.operand(op, port)
        parts.append((program.recoded(op, name, shape, params), shape))
    first = parts[0][1]
    axis = axis_of(op, int(attribute(op, "axis", 0)), len(first))
    if any(shape[:axis] != first[:axis] or shape[axis + 1 :] != first[axis + 1 :] for _, shape in parts):
        refuse(op, "its operands differ along another axis", CHECK)
    made = tuple(sum(shape[axis] for _, shape in parts) if i == axis else n for i, n in enumerate(first))
    output, steps, at = program.output(op, made), strides(made), 0
    for name, shape in parts:
        _move(program, op, name, output, shape, strides(shape), steps, (0, at * steps[axis]))
        at += shape[axis]


def pad(program: Program, op: Op) -> None:
    """Pad, by a constant or by what is there; negative pads cut."""
    name, shape = _given(program, op)
    listed, axes = _whole(program, op, 1, "pads"), _whole(program, op, 3)
    assert listed is not None
    half = len(listed) // 2
    begins, ends = [0] * len(shape), [0] * len(shape)
    if len(listed) != 2 * len(axes or shape):
        refuse(op, f"there are {len(listed)} pads for {len(axes or shape)} axes", CHECK)
    for i, axis in enumerate(axes or range(half)):
        at = axis_of(op, axis, len(shape))
        begins[at], ends[at] = listed[i], listed[half + i]
    made = tuple(b + n + e for b, n, e in zip(begins, shape, ends, strict=True))
    mode = attribute(op, "mode", "constant")
    output, steps, out_steps = program.output(op, made), strides(shape), strides(made)
    if mode != "constant":
        places = [_folded(mode, n, b, e) for n, b, e in zip(shape, begins, ends, strict=True)]
        lists = [p * s if b or e else None for p, s, b, e in zip(places, steps, begins, ends, strict=True)]
        _move(program, op, name, output, made, steps, out_steps, lists=lists)
        return
    kept = [(max(-b, 0), n + min(e, 0)) for b, n, e in zip(begins, shape, ends, strict=True)]
    if prod(made) != prod(shape):
        program.call(op, "fill", (), output, code=_filling(program, op), count=prod(made))
    starts = (
        sum(k[0] * s for k, s in zip(kept, steps, strict=True)),
        sum(max(b, 0) * s for b, s in zip(begins, out_steps, strict=True)),
    )
    _move(program, op, name, output, [max(k[1] - k[0], 0) for k in kept], steps, out_steps, starts)


def _filling(program: Program, op: Op) -> int:
    """The code of a Pad's constant, 0 where it has none."""
    params = op.outputs[0].params
    assert params is not None
    tensor = op.inputs[2] if len(op.inputs) > 2 else None
    held = None if tensor is None else program.known(tensor)
    if tensor is not None and held is None:
        refuse(op, f"its filling '{tensor.name}' is computed from data", "Make it constant.")
    if tensor is not None and tensor.params is not None:
        held = dequantize(np.asarray(held, np.int32), tensor.params)
    value = np.float32(attribute(op, "value", 0.0) if held is None or not held.size else held.ravel()[0])
    single = QParams(params.scheme, params.scale.reshape(1), params.zero_point.reshape(1))
    return int(quantize(np.array([value], np.float32), single)[0])


def _folded(mode: str, size: int, begin: int, end: int) -> Values:
    """Which element of an axis each place of a padded axis shows."""
    at = np.arange(-begin, size + end)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap" or size == 1:
        return at % size
    around = at % (2 * size - 2)
    return np.minimum(around, 2 * size - 2 - around)


def resize(program: Program, op: Op) -> None:
    """Resize by the nearest neighbour."""
    name, shape = _given(program, op)
    mode = attribute(op, "mode", "nearest")
    if mode != "nearest":
        refuse(op, f"its mode is {mode}", "Use mode nearest.")
    last = len(op.inputs) - 1
    sizes = _whole(program, op, 3) if last >= 3 else None
    held = program.known(op.inputs[2 if last >= 2 else 1]) if sizes is None else None
    if sizes is None and (held is None or held.size != len(shape)):
        refuse(op, "its scales are not constant, or not of every axis", "Name all axes, by constants.")
    scales = [float(v) for v in held] if sizes is None and held is not None else []
    if sizes is not None:
        scales = [n / m for n, m in zip(sizes, shape, strict=True)]
    made = tuple(sizes or (resized(n, s) for n, s in zip(shape, scales, strict=True)))
    oldest = len(op.inputs) == 2
    coordinates = "asymmetric" if oldest else attribute(op, "coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if oldest else attribute(op, "nearest_mode", "round_prefer_floor")
    output, steps = program.output(op, made), strides(shape)
    lists = [
        None if n == m else nearest_positions(n, m, s, coordinates, rounding) * step
        for n, m, s, step in zip(shape, made, scales, steps, strict=True)
    ]
    _move(program, op, name, output, made, steps, strides(made), lists=lists)
