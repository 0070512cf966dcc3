"""Sums, products, functions of one number, means, pools and softmax as calls.

Operands that broadcast are walked with a step of 0 along the axes they repeat. A function of one number, Relu and Clip
among them, is a table of 256 codes.
"""

from math import prod

import numpy as np

from halfeven.exporters.c.blocks import Shape, filled, merged, repeated, strides
from halfeven.exporters.c.layers import CHECK, area, geometry, window_of
from halfeven.exporters.c.program import (
    Field,
    Program,
    affines,
    attribute,
    axis_of,
    multiplier,
    multipliers,
    ranked,
    refuse,
    stored_as,
)
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.network import Op, divisor, looked_up
from halfeven.numerics.code_tables import code_table, exponentials, softmax_multiplier
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_target import affine_of, mean_multiplier, output_of, sum_multipliers
from halfeven.numerics.multiplier import real_multiplier


def _pair(program: Program, op: Op) -> tuple[tuple[str, str], str, Affine, Affine, Output, dict[str, Field]]:
    """What the operators on two operands share: names, output, what codes mean, and how both are walked."""
    (a, shape_a, in_a), (b, shape_b, in_b) = program.operand(op, 0), program.operand(op, 1)
    first, out = affines(op, in_a)
    second, _ = affines(op, in_b)
    shape = tuple(int(n) for n in np.broadcast_shapes(shape_a, shape_b))
    output = program.output(op, shape)
    lengths, (steps_a, steps_b) = merged(shape, repeated(shape_a, shape), repeated(shape_b, shape))
    fields: dict[str, Field] = {
        "count": prod(lengths[:-1]),
        "rank": ranked(op, lengths),
        "length": filled(lengths),
        "a_step": filled(steps_a),
        "b_step": filled(steps_b),
        "a_zero": first.zero_point,
        "b_zero": second.zero_point,
    }
    return (a, b), output, first, second, out, fields


def addition(program: Program, op: Op) -> None:
    """Add and Sub."""
    names, output, a, b, out, fields = _pair(program, op)
    by_a, by_b, shift = sum_multipliers(a.scale, b.scale, out.affine.scale)
    fields |= {"a_multiplier": by_a, "b_multiplier": -by_b if op.kind == "Sub" else by_b, "shift": shift}
    program.call(op, "addition", names, output, **fields, **stored_as(out))


def multiplication(program: Program, op: Op) -> None:
    """Mul."""
    names, output, a, b, out, fields = _pair(program, op)
    by = multiplier(real_multiplier(a.scale, b.scale, out.affine.scale))
    program.call(op, "multiplication", names, output, **fields, **by, **stored_as(out))


def prelu(program: Program, op: Op) -> None:
    """PRelu; its slope broadcasts to its input."""
    names, output, a, b, out, fields = _pair(program, op)
    if program.shapes[output] != program.operand(op, 0)[1]:
        refuse(op, "its slope is larger than its input", CHECK)
    by = multiplier(mean_multiplier(a.scale, 1, out.affine.scale))
    steep = multiplier(real_multiplier(a.scale, b.scale, out.affine.scale), ("slope_multiplier", "slope_shift"))
    program.call(op, "prelu", names, output, **fields, **by, **steep, **stored_as(out))


def lookup(program: Program, op: Op) -> None:
    """A function of one number."""
    name, shape, params = program.operand(op, 0)
    given, out = affines(op, params)
    if op.kind == "Clip":
        wanted = op.outputs[0].params
        assert wanted is not None
        assert op.node is not None
        low, high = clamp_bounds(op.node)
        if not low <= high:
            refuse(op, "its bounds are not constant", "Make them constant.")
        inner = output_of(wanted, (low, high))
        out = Output(out.affine, min(max(inner.low, out.low), out.high), max(min(inner.high, out.high), out.low))
    if op.kind == "Div" and divisor(op) == 0.0:
        refuse(op, "it does not divide by one number other than 0", "Multiply by the inverses instead.")
    table = code_table(op.kind, given, out, attributes=looked_up(op))
    entries = program.array(table, np.int8, f"table of {op.name}")
    program.call(op, "lookup", (name,), program.output(op, shape), count=prod(shape), table=entries)


def softmax(program: Program, op: Op, opset: int = 13) -> None:
    """Softmax; before opset 13 over all axes from its own on."""
    name, shape, params = program.operand(op, 0)
    given, out = affines(op, params)
    axis = axis_of(op, int(attribute(op, "axis", -1 if opset >= 13 else 1)), len(shape))
    length, inner = (shape[axis], prod(shape[axis + 1 :])) if opset >= 13 else (prod(shape[axis:]), 1)
    by = softmax_multiplier(out.affine.scale, length)
    program.call(
        op,
        "softmax",
        (name,),
        program.output(op, shape),
        outer=prod(shape[:axis]),
        length=length,
        inner=inner,
        multiplier=int(by.mantissa),
        shift=int(by.shift),
        exponential=program.array(exponentials(given.scale), np.int32, f"exponentials of {op.name}"),
        **stored_as(out),
    )


def mean(program: Program, op: Op) -> None:
    """ReduceMean and GlobalAveragePool."""
    name, shape, params = program.operand(op, 0)
    given, out = affines(op, params)
    axes = _axes(program, op, len(shape))
    keep = op.kind == "GlobalAveragePool" or bool(attribute(op, "keepdims", 1))
    made = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
    steps = strides(shape)
    stays = [i for i in range(len(shape)) if i not in axes]
    lengths, (at,) = merged([shape[i] for i in stays], [steps[i] for i in stays])
    over, (over_at,) = merged([shape[i] for i in axes], [steps[i] for i in axes])
    fields: dict[str, Field] = {
        "count": prod(lengths),
        "rank": ranked(op, lengths),
        "length": filled(lengths),
        "step": filled(at),
        "over": prod(over[:-1]),
        "over_rank": ranked(op, over),
        "over_length": filled(over),
        "over_step": filled(over_at),
        "zero": given.zero_point,
    }
    by = multiplier(mean_multiplier(given.scale, prod(over), out.affine.scale))
    program.call(op, "mean", (name,), program.output(op, made), **fields, **by, **stored_as(out))


def _axes(program: Program, op: Op, rank: int) -> tuple[int, ...]:
    """The axes that a mean goes over, in order."""
    if op.kind == "GlobalAveragePool":
        return tuple(range(2, rank))
    listed = attribute(op, "axes", None)
    if listed is None and len(op.inputs) > 1 and op.inputs[1] is not None:
        values = program.known(op.inputs[1])
        if values is None:
            refuse(op, "its axes are computed from data", "Make them constant.")
        listed = values.ravel().tolist()
    if not listed and attribute(op, "noop_with_empty_axes", 0):
        return ()
    return tuple(sorted({axis_of(op, int(axis), rank) for axis in listed or range(rank)}))


def average_pool(program: Program, op: Op) -> None:
    """AveragePool: one multiplier for each number of elements that a window can count."""
    name, shape, params = program.operand(op, 0)
    given, out = affines(op, params)
    window = window_of(op, shape, tuple(attribute(op, "kernel_shape", ())))
    if any(d != 1 for d in window.dilations):
        refuse(op, "its window has gaps", "Dilations of 1 are possible.")
    counts, which = np.unique(
        window.counts(shape[2:], bool(attribute(op, "count_include_pad", 0))), return_inverse=True
    )
    if counts[0] < 1 or len(counts) > 256:
        refuse(op, "a window sees nothing but pads", "Make its pads smaller than its window.")
    sizes = window.sizes(shape[2:])
    shared = {k: v for k, v in geometry(window).items() if not k.startswith("dilation")}
    program.call(
        op,
        "average_pool",
        (name,),
        program.output(op, (*shape[:2], *sizes)),
        **_places(shape, sizes),
        **shared,
        zero=given.zero_point,
        which=program.array(which, np.uint8, f"which multiplier each output of {op.name} has"),
        **multipliers(program, op, mean_multiplier(given.scale, counts, out.affine.scale)),
        **stored_as(out),
    )


def max_pool(program: Program, op: Op) -> None:
    """MaxPool, of codes that mean what its output's mean."""
    name, shape, params = program.operand(op, 0)
    if any(t.name and program.readers.get(t.name, 0) for t in op.outputs[1:]):
        refuse(op, "the places of its maxima are asked for", "Use its first output only.")
    if attribute(op, "storage_order", 0):
        refuse(op, "it is column-major", "Use storage_order 0.")
    window = window_of(op, shape, tuple(attribute(op, "kernel_shape", ())))
    sizes = window.sizes(shape[2:])
    name = program.recoded(op, name, shape, params)
    output = program.output(op, (*shape[:2], *sizes))
    program.call(op, "max_pool", (name,), output, **_places(shape, sizes), **geometry(window))


def _places(shape: Shape, sizes: Shape) -> dict[str, Field]:
    """Channels and sizes of a pool: every picture of a batch, and every channel, is by itself."""
    given, made = area(shape), area((1, 1, *sizes))
    return {
        "channels": shape[0] * shape[1],
        "height": given[0],
        "width": given[1],
        "out_height": made[0],
        "out_width": made[1],
    }


def identity_of(program: Program, op: Op) -> None:
    """Requantize: the same numbers in other codes."""
    name, shape, params = program.operand(op, 0)
    affine_of(params)
    moved = program.recoded(op, name, shape, params)
    program.alias(op, moved, shape)
