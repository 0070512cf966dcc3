"""Conv, ConvTranspose, Gemm and MatMul as calls.

    Conv, ConvTranspose     one axis is the second of two; 1x1 without stride or pad is one row of height * width
    Gemm, MatMul            rows and columns by their steps, so that nothing is transposed; a batch by its own steps

A bias that is absent is zeros. Where weights, zero points and bias let a sum of 32 bits overflow, the notes say so.
"""

from math import prod

import numpy as np
import onnx_ir as ir

from halfeven.exporters.c.blocks import Shape, filled, merged, repeated
from halfeven.exporters.c.program import (
    Array,
    Field,
    Program,
    Values,
    affines,
    attribute,
    multipliers,
    ranked,
    refuse,
    stored_as,
)
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.elementwise import Output
from halfeven.numerics.multiplier import real_multiplier
from halfeven.numerics.overflow import accumulator_ranges
from halfeven.numerics.windows import Window, explicit_pads

QUANTIZE = "Quantize the model with --target integer."
CHECK = "Check the model with onnx.checker."
LARGEST = 1 << 14


def window_of(op: Op, shape: Shape, kernel: Shape) -> Window:
    """The geometry that the attributes of a Conv or pool give, for an input of `shape`."""
    rank = len(kernel)
    if rank not in (1, 2) or len(shape) != rank + 2:
        refuse(op, f"it has {len(shape) - 2} spatial axes, a kernel of {rank}", "One or two are possible.")
    ones = (1,) * rank
    strides = tuple(attribute(op, "strides", ones))
    dilations = tuple(attribute(op, "dilations", ones))
    pads = tuple(attribute(op, "pads", (0,) * (2 * rank)))
    pads = explicit_pads(attribute(op, "auto_pad", "NOTSET"), shape[2:], kernel, strides, dilations, pads)
    if min(pads) < 0 or max(pads) >= LARGEST:
        refuse(op, f"its pads are {list(pads)}", f"Pads of 0 to {LARGEST - 1} are possible.")
    if not 1 <= min(strides + dilations + kernel) <= max(strides + dilations + kernel) < LARGEST:
        refuse(op, "its kernel, strides or dilations make no sense", f"1 to {LARGEST - 1} are possible.")
    return Window(kernel, strides, pads, dilations, bool(attribute(op, "ceil_mode", 0)))


def geometry(window: Window) -> dict[str, Field]:
    """The fields that all windows share."""
    two = window.as_2d()
    return {
        "kernel_height": two.kernel[0],
        "kernel_width": two.kernel[1],
        "stride_y": two.strides[0],
        "stride_x": two.strides[1],
        "pad_top": two.pads[0],
        "pad_left": two.pads[1],
        "dilation_y": two.dilations[0],
        "dilation_x": two.dilations[1],
    }


def area(shape: Shape) -> Shape:
    """Height and width of (N, C, W) or (N, C, H, W)."""
    return (1, *shape[2:]) if len(shape) == 3 else shape[2:]


def convolution(program: Program, op: Op) -> None:
    """Conv."""
    name, shape, params = program.operand(op, 0)
    weight, held = _weight(op, 1)
    given, out = affines(op, params)
    window = window_of(op, shape, held.shape[2:])
    groups = int(attribute(op, "group", 1))
    sizes = window.sizes(shape[2:])
    if shape[1] != held.shape[1] * groups or held.shape[0] % groups:
        refuse(op, f"{shape[1]} channels, weights {list(held.shape)} and {groups} groups do not fit", CHECK)
    output = program.output(op, (shape[0], held.shape[0], *sizes))
    flat = prod(window.kernel) == 1 == prod(window.strides) and not any(window.pads)
    size, out_size = area(shape), area((1, 1, *sizes))
    if flat:
        size = out_size = (1, prod(size))
    fields = _channels(program, op, given.scale, weight, held, out, 0)
    bias = fields["bias"]
    assert isinstance(bias, Array)
    _watch(program, op, held, given.zero_point, bias)
    program.call(
        op,
        "convolution",
        (name,),
        output,
        batch=shape[0],
        groups=groups,
        in_channels=held.shape[1],
        out_channels=held.shape[0] // groups,
        **_sizes(size, out_size),
        **geometry(window),
        zero=given.zero_point,
        **fields,
        **stored_as(out),
    )


def transposed(program: Program, op: Op) -> None:
    """ConvTranspose."""
    name, shape, params = program.operand(op, 0)
    weight, held = _weight(op, 1)
    given, out = affines(op, params)
    groups = int(attribute(op, "group", 1))
    if shape[1] != held.shape[0] or held.shape[0] % groups:
        refuse(op, f"{shape[1]} channels, weights {list(held.shape)} and {groups} groups do not fit", CHECK)
    window, sizes = _transposed_window(op, shape, held.shape[2:])
    output = program.output(op, (shape[0], held.shape[1] * groups, *sizes))
    program.call(
        op,
        "transposed",
        (name,),
        output,
        batch=shape[0],
        groups=groups,
        in_channels=held.shape[0] // groups,
        out_channels=held.shape[1],
        **_sizes(area(shape), area((1, 1, *sizes))),
        **geometry(window),
        zero=given.zero_point,
        **_channels(program, op, given.scale, weight, held, out, 1, groups),
        **stored_as(out),
    )


def _transposed_window(op: Op, shape: Shape, kernel: Shape) -> tuple[Window, Shape]:
    """Geometry and output sizes: (size - 1) * stride + reach + output_padding - pads, or those asked for."""
    automatic = attribute(op, "auto_pad", "NOTSET")
    asked = attribute(op, "output_shape", None)
    more = tuple(attribute(op, "output_padding", (0,) * len(kernel)))
    window = window_of(op, shape, kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, window.dilations, strict=True)]
    full = [(n - 1) * s + r + m for n, s, r, m in zip(shape[2:], window.strides, reach, more, strict=True)]
    if asked is None and automatic in ("NOTSET", "VALID"):
        pads, rank = window.pads, window.rank
        return window, tuple(f - pads[i] - pads[i + rank] for i, f in enumerate(full))
    wanted = tuple(asked or (n * s for n, s in zip(shape[2:], window.strides, strict=True)))[-window.rank :]
    totals = [max(f - w, 0) for f, w in zip(full, wanted, strict=True)]
    begins = [t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in totals]
    pads = (*begins, *(t - b for t, b in zip(totals, begins, strict=True)))
    return Window(kernel, window.strides, pads, window.dilations), wanted


def gemm(program: Program, op: Op) -> None:
    """Gemm: A (M, K) times B (K, N), either transposed, plus C."""
    if attribute(op, "alpha", 1.0) != 1.0 or (len(op.inputs) > 2 and attribute(op, "beta", 1.0) != 1.0):
        refuse(op, "its alpha or beta is not 1", "Multiply them into its weight and bias.")
    a, b = program.operand(op, 0), program.operand(op, 1)
    steps_a, steps_b = list(repeated(a[1], a[1])), list(repeated(b[1], b[1]))
    shape_a, shape_b = list(a[1]), list(b[1])
    if attribute(op, "transA", 0):
        steps_a, shape_a = steps_a[::-1], shape_a[::-1]
    if attribute(op, "transB", 0):
        steps_b, shape_b = steps_b[::-1], shape_b[::-1]
    _same_depth(op, shape_a[1], shape_b[0])
    output = program.output(op, (shape_a[0], shape_b[1]))
    axes = (1 if attribute(op, "transA", 0) else 0), (0 if attribute(op, "transB", 0) else 1)
    _product(program, op, output, (shape_a[0], shape_a[1], shape_b[1]), (tuple(steps_a), tuple(steps_b)), axes)


def matmul(program: Program, op: Op) -> None:
    """MatMul, of any ranks; the axes before the last two are a batch, and broadcast."""
    (_, shape_a, _), (_, shape_b, _) = program.operand(op, 0), program.operand(op, 1)
    full_a = (1, *shape_a) if len(shape_a) == 1 else shape_a
    full_b = (*shape_b, 1) if len(shape_b) == 1 else shape_b
    rows, depth, columns = full_a[-2], full_a[-1], full_b[-1]
    _same_depth(op, depth, full_b[-2])
    batch = tuple(int(n) for n in np.broadcast_shapes(full_a[:-2], full_b[:-2]))
    made = (*batch, *([rows] if len(shape_a) > 1 else []), *([columns] if len(shape_b) > 1 else []))
    output = program.output(op, made)
    steps_a = repeated(full_a, (*batch, rows, depth))
    steps_b = repeated(full_b, (*batch, depth, columns))
    axes = len(shape_a) - 2 if len(shape_a) > 1 else None, len(shape_b) - 1 if len(shape_b) > 1 else None
    _product(program, op, output, (rows, depth, columns), (steps_a, steps_b), axes, batch)


def _product(
    program: Program,
    op: Op,
    output: str,
    sizes: tuple[int, int, int],
    steps: tuple[Shape, Shape],
    axes: tuple[int | None, int | None],
    batch: Shape = (),
) -> None:
    """One call; `axes` are those along which A and B may have a scale for each row or column."""
    (name_a, _, in_a), (name_b, _, in_b) = program.operand(op, 0), program.operand(op, 1)
    wanted = op.outputs[0].params
    assert wanted is not None
    _, out = affines(op, wanted)
    for params, axis in ((in_a, axes[0]), (in_b, axes[1])):
        if params.scale.size > 1 and (params.scheme.tiling.axis != axis or params.zero_point.any()):
            refuse(op, "its weights have scales along an axis that is summed over", QUANTIZE)
    rows, depth, columns = sizes
    by_a = in_a.scale.reshape(-1, 1).astype(np.float32)
    by_b = in_b.scale.reshape(1, -1).astype(np.float32)
    real = real_multiplier(by_a, by_b, out.affine.scale)
    lengths, (batch_a, batch_b) = merged(batch, steps[0][:-2], steps[1][:-2])
    rank = ranked(op, lengths)
    bias, steps_bias = _product_bias(program, op, (rows, columns), by_a * by_b)
    weight = op.inputs[1]
    if weight is not None and weight.data is not None and weight.data.ndim == 2 and not in_b.zero_point.any():
        _watch(program, op, weight.data, int(in_a.zero_point.ravel()[0]), bias, axes[1] or 0)
    program.call(
        op,
        "product",
        (name_a, name_b),
        output,
        batch=prod(batch),
        rank=rank,
        length=filled(lengths),
        a_step=filled(batch_a),
        b_step=filled(batch_b),
        rows=rows,
        columns=columns,
        depth=depth,
        a_row=steps[0][-2],
        a_next=steps[0][-1],
        b_column=steps[1][-1],
        b_next=steps[1][-2],
        a_zero=int(in_a.zero_point.ravel()[0]),
        b_zero=int(in_b.zero_point.ravel()[0]),
        bias_row=steps_bias[0],
        bias_column=steps_bias[1],
        scale_row=(by_b.size if by_a.size > 1 else 0),
        scale_column=int(by_b.size > 1),
        bias=bias,
        **multipliers(program, op, real),
        **stored_as(out),
    )


def _product_bias(program: Program, op: Op, shape: Shape, scales: Values) -> tuple[Array, Shape]:
    """C of a Gemm with its steps along rows and columns."""
    tensor = op.inputs[2] if len(op.inputs) > 2 else None
    if tensor is None:
        return program.array([0], np.int32, f"bias of {op.name}"), (0, 0)
    held = _bias(op, tensor, scales)
    if np.broadcast_shapes(held.shape, shape) != shape:
        refuse(op, f"its bias of shape {list(held.shape)} is larger than its output", CHECK)
    return program.array(held, np.int32, f"bias of {op.name}"), repeated(held.shape, shape)


def _same_depth(op: Op, a: int, b: int) -> None:
    if a != b:
        refuse(op, f"rows of {a} and columns of {b} do not multiply", CHECK)


def _weight(op: Op, port: int) -> tuple[Tensor, Values]:
    """Constant int8 codes without a zero point."""
    tensor = op.inputs[port]
    if tensor is None or tensor.data is None or tensor.params is None or tensor.dtype != ir.DataType.INT8:
        refuse(op, "its weights are no constant int8 codes", QUANTIZE)
    if tensor.params.zero_point.any():
        refuse(op, "its weights have a zero point", "Quantize weights symmetrically, as --target integer does.")
    return tensor, tensor.data


def _bias(op: Op, tensor: Tensor, scales: Values) -> Values:
    """Constant int32 codes whose scale is that of the sum."""
    if tensor.data is None or tensor.params is None or tensor.dtype != ir.DataType.INT32:
        refuse(op, "its bias is no constant int32 codes", QUANTIZE)
    fits = np.array_equal(tensor.params.scale.ravel(), scales.astype(np.float32).ravel())
    if tensor.params.zero_point.any() or not fits:
        refuse(op, "the scale of its bias is not input scale * weight scale", QUANTIZE)
    return tensor.data


def _channels(
    program: Program, op: Op, scale: float, weight: Tensor, held: Values, out: Output, axis: int, groups: int = 1
) -> dict[str, Field]:
    """Weights, bias and multipliers of each output channel."""
    assert weight.params is not None
    scales, made = weight.params.scale.ravel(), held.shape[axis] * groups
    if scales.size > 1 and weight.params.scheme.tiling.axis != axis:
        refuse(op, "its weights have no scale for each output channel", QUANTIZE)
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    added = np.zeros(made, np.int32) if bias is None else _bias(op, bias, np.float32(scale) * scales)
    return {
        "per_channel": int(scales.size > 1),
        "weight": program.array(held, np.int8, f"weight of {op.name}"),
        "bias": program.array(np.broadcast_to(added, (made,)), np.int32, f"bias of {op.name}"),
        **multipliers(program, op, real_multiplier(scale, scales, out.affine.scale)),
    }


def _watch(program: Program, op: Op, held: Values, zero: int, bias: Array, axis: int = 0) -> None:
    """Note a layer in which some input lets 32 bits overflow; `axis` of its weights counts output channels."""
    weights, channels = held.astype(np.int64), held.shape[axis]
    added = np.broadcast_to(bias.values, (channels,)) if bias.values.size in (1, channels) else np.zeros(1, np.int32)
    ranges = accumulator_ranges(weights, -128, 127, zero, 0, added, axis=axis)
    if advice := next((r.advice for r in ranges if r.can_overflow), ""):
        program.notes.append(f"{op.kind} '{op.name}': {advice} The sum wraps in C as in the simulation.")


def _sizes(given: Shape, made: Shape) -> dict[str, Field]:
    return {"height": given[0], "width": given[1], "out_height": made[0], "out_width": made[1]}
