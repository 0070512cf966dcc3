"""Element-wise operators and activations, in whatever order their operands lie.

    Add, Sub, Mul, Div, Max, Min, Pow, ...     ADD, SUB, ...; Div by a constant of codes is MUL by its inverse
    Relu, Clip                                 RELU, RELU6, else MAXIMUM and MINIMUM; fused RELU_N1_TO_1, too
    LeakyRelu, PRelu, HardSwish, Gelu          LEAKY_RELU, PRELU, HARD_SWISH, GELU
    HardSigmoid                                MUL by alpha, which on codes changes the scale only; ADD of beta, clamped
    Sigmoid, Tanh, Softmax, LogSoftmax         LOGISTIC, TANH, SOFTMAX along the last axis, LOG_SOFTMAX

Operands of several orders are brought into that of the largest. A constant lies in any order.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from halfeven.exporters.litert.builder import NONE, Builder, Wire
from halfeven.exporters.litert.layout import Order, plain, raised
from halfeven.exporters.litert.windows import refuse
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.scheme import QParams

BINARY: dict[str, tuple[str, str]] = {
    "Add": ("ADD", "AddOptions"),
    "Sub": ("SUB", "SubOptions"),
    "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"),
    "Pow": ("POW", "PowOptions"),
    "Max": ("MAXIMUM", "MaximumMinimumOptions"),
    "Min": ("MINIMUM", "MaximumMinimumOptions"),
    "Mod": ("FLOOR_MOD", "FloorModOptions"),
    "Equal": ("EQUAL", "EqualOptions"),
    "Greater": ("GREATER", "GreaterOptions"),
    "GreaterOrEqual": ("GREATER_EQUAL", "GreaterEqualOptions"),
    "Less": ("LESS", "LessOptions"),
    "LessOrEqual": ("LESS_EQUAL", "LessEqualOptions"),
    "And": ("LOGICAL_AND", "LogicalAndOptions"),
    "Or": ("LOGICAL_OR", "LogicalOrOptions"),
}
UNARY: dict[str, tuple[str, str]] = {
    "Abs": ("ABS", "AbsOptions"),
    "Ceil": ("CEIL", ""),
    "Cos": ("COS", "CosOptions"),
    "Exp": ("EXP", "ExpOptions"),
    "Floor": ("FLOOR", ""),
    "HardSwish": ("HARD_SWISH", "HardSwishOptions"),
    "Log": ("LOG", ""),
    "Neg": ("NEG", "NegOptions"),
    "Not": ("LOGICAL_NOT", "LogicalNotOptions"),
    "Round": ("ROUND", ""),
    "Sigmoid": ("LOGISTIC", ""),
    "Sign": ("SIGN", ""),
    "Sin": ("SIN", ""),
    "Sqrt": ("SQRT", ""),
    "Tanh": ("TANH", ""),
}
ACTIVATING = frozenset({"Add", "Sub", "Mul", "Div"})


def common_order(b: Builder, tensors: Sequence[Tensor | None], rank: int) -> Order:
    """The order of the largest computed operand, as broadcasting sees it; of equals one that is not ONNX's."""
    found: list[tuple[int, bool, Order]] = []
    for tensor in tensors:
        if tensor is not None and tensor.constant is None:
            wire = b.wires[tensor.name]
            order = raised(wire.order, rank)
            found.append((prod(wire.dims.sizes), order != plain(rank), order))
    return max(found, key=lambda item: item[:2])[2] if found else plain(rank)


def binary(b: Builder, op: Op) -> None:
    """Two operands, or, of Max and Min, any number."""
    inputs = [t for t in op.inputs if t is not None]
    code, options = BINARY[op.kind]
    order = common_order(b, inputs, b.dims(op.outputs[0]).rank)
    wires = [_operand(b, op, t, order, port) for port, t in enumerate(inputs)]
    fields: dict[str, Any] = {"fusedActivationFunction": NONE} if op.kind in ACTIVATING else {}
    if op.kind in ("Add", "Sub"):
        fields["potScaleInt16"] = False
    if op.kind == "Div" and inputs[0].coded:
        code, options = "MUL", "MulOptions"
    if len(wires) == 1:
        b.wires[op.outputs[0].name] = replace(wires[0])
        return
    index = wires[0].index
    for wire in wires[1:-1]:
        sizes = tuple(np.broadcast_shapes(*(b.tensors[i].shape for i in (index, wire.index))))
        part = b.tensor(f"{op.name}_part", sizes, b.declared(op.outputs[0], order))
        b.emit(code, [index, wire.index], [part], options, **fields)
        index = part
    b.close(op, code, [index, wires[-1].index], order, options, **fields)


def _operand(b: Builder, op: Op, tensor: Tensor, order: Order, port: int) -> Wire:
    """An operand; beside codes a constant number becomes codes, a divisor its inverse."""
    output = op.outputs[0]
    dividing = op.kind == "Div" and port == 1 and output.coded
    as_it_is = tensor.constant is None or tensor.coded or not output.coded or op.kind in ("Max", "Min")
    if as_it_is and not dividing:
        return b.operand(tensor, order)
    value = np.asarray(tensor.data, np.float32)
    if tensor.params is not None:
        raise refuse(op, "a divisor of codes has no integer form in LiteRT.")
    with np.errstate(divide="ignore"):
        value = np.float32(1) / value if dividing else value
    return b.factor(value, output, tensor.name, order)


def divisor_has_no_form(op: Op) -> str:
    """Why a Div on codes has no integer kernel; empty when its divisor is a constant other than zero."""
    divisor = op.inputs[1]
    data = None if divisor is None or divisor.coded else divisor.data
    if data is None or not np.all(data):
        return "LiteRT has no integer kernel for Div but by a constant"
    return ""


def unary(b: Builder, op: Op) -> None:
    """One operand, one code."""
    x = op.inputs[0]
    assert x is not None
    wire = b.wire(x)
    code, options = UNARY[op.kind]
    b.close(op, code, [wire.index], wire.order, options)


def gelu(b: Builder, op: Op) -> None:
    """Gelu."""
    x = op.inputs[0]
    assert x is not None
    wire, approximate = b.wire(x), op.attributes.get("approximate", "none") in ("tanh", b"tanh")
    b.close(op, "GELU", [wire.index], wire.order, "GeluOptions", approximate=approximate)


def leaky_relu(b: Builder, op: Op) -> None:
    """LeakyRelu."""
    x = op.inputs[0]
    assert x is not None
    wire, alpha = b.wire(x), float(op.attributes.get("alpha", 0.01))
    b.close(op, "LEAKY_RELU", [wire.index], wire.order, "LeakyReluOptions", alpha=alpha)


def prelu(b: Builder, op: Op) -> None:
    """PRelu."""
    x, slope = op.inputs[:2]
    assert x is not None
    assert slope is not None
    wire = b.wire(x)
    b.close(op, "PRELU", [wire.index, b.operand(slope, wire.order).index], wire.order)


def relu(b: Builder, op: Op) -> None:
    """Relu on its own."""
    x = op.inputs[0]
    assert x is not None
    wire = b.wire(x)
    b.close(op, "RELU", [wire.index], wire.order)


def clip(b: Builder, op: Op) -> None:
    """Clip on its own; bounds that nothing passes leave the value as it is."""
    x, output = op.inputs[0], op.outputs[0]
    assert x is not None
    limits = []
    for port, name, free in ((1, "min", -np.inf), (2, "max", np.inf)):
        given = op.inputs[port] if port < len(op.inputs) else None
        if given is not None and given.data is None:
            raise refuse(op, "its bounds are computed at run time; LiteRT's kernels need constants.")
        limits.append(float(op.attributes.get(name, free) if given is None else np.asarray(given.values).ravel()[0]))
    low, high = op.clamp or (-np.inf, np.inf)
    bounds = b.bounds(replace(op, clamp=(max(limits[0], low), min(limits[1], high))))
    wire = b.wire(x)
    if bounds == (-np.inf, np.inf):
        b.wires[output.name] = wire
        return
    b.clamp(wire.index, output, wire.order, bounds)


def hard_sigmoid(b: Builder, op: Op) -> None:
    """HardSigmoid: min(max(alpha * x + beta, 0), 1)."""
    x, output = op.inputs[0], op.outputs[0]
    assert x is not None
    alpha, beta = (float(op.attributes.get(k, v)) for k, v in (("alpha", 0.2), ("beta", 0.5)))
    wire = b.wire(x)
    rank = (1,) * wire.dims.rank
    scaled = replace(output, name=b.name(f"{output.name}_scaled"), params=x.params, dtype=x.dtype)
    if wire.dims.open is not None:
        b.open = {**b.open, scaled.name: wire.dims.open}
    if x.params is None:
        factors = [b.constant(np.full(rank, v, np.float32), op.name) for v in (alpha, beta)]
    else:
        scale = (x.params.scale * np.float32(alpha)).astype(np.float32)
        scaled = replace(scaled, params=QParams(x.params.scheme, scale, x.params.zero_point))
        factors = [b.factor(np.full(rank, v, np.float32), x, op.name, wire.order).index for v in (alpha, beta)]
    made = b.output(scaled, wire.order)
    b.emit("MUL", [wire.index, factors[0]], [made], "MulOptions", fusedActivationFunction=NONE)
    clamped = replace(op, clamp=(0.0, 1.0))
    b.close(clamped, "ADD", [made, factors[1]], wire.order, "AddOptions",
            fusedActivationFunction=NONE, potScaleInt16=False)  # fmt: skip


def softmax(b: Builder, op: Op) -> None:
    """Softmax and LogSoftmax: along one axis, which is stored last, or, before opset 13, along all from one on."""
    x, output = op.inputs[0], op.outputs[0]
    assert x is not None
    dims = b.dims(x)
    axis = int(op.attributes.get("axis", -1 if b.opset >= 13 else 1)) % dims.rank
    code, options, fields = "SOFTMAX", "SoftmaxOptions", {"beta": 1.0}
    if op.kind == "LogSoftmax":
        code, options, fields = "LOG_SOFTMAX", "LogSoftmaxOptions", {}
    together = b.opset < 13 and prod(dims.sizes[axis + 1 :]) > 1
    order = b.wires[x.name].order if x.constant is None else plain(dims.rank)
    if together:
        order = plain(dims.rank)
    elif order[-1] != axis:
        order = (*(a for a in order if a != axis), axis)
    wire = b.operand(x, order)
    if not together:
        b.close(op, code, [wire.index], order, options, **fields)
        return
    rows = (prod(dims.sizes[:axis]), prod(dims.sizes[axis:]))
    open_axis = 0 if dims.open is not None else None
    flat = b.reshape(wire.index, rows, f"{op.name}_rows", open_axis)
    made = b.tensor(f"{output.name}_rows", rows, b.declared(output, order), open_axis)
    b.emit(code, [flat], [made], options, **fields)
    b.emit_reshape(made, b.output(output, order))


def where(b: Builder, op: Op) -> None:
    """Where."""
    inputs = [t for t in op.inputs if t is not None]
    order = common_order(b, inputs, b.dims(op.outputs[0]).rank)
    b.close(op, "SELECT_V2", [b.operand(t, order).index for t in inputs], order, "SelectV2Options")


def cast(b: Builder, op: Op) -> None:
    """Cast; to the type that the value has, nothing."""
    x, output = op.inputs[0], op.outputs[0]
    assert x is not None
    wire = b.wire(x)
    if x.dtype == output.dtype:
        b.wires[output.name] = wire
        return
    b.emit("CAST", [wire.index], [b.output(output, wire.order)])


def border(b: Builder, op: Op) -> None:
    """QuantizeLinear, DequantizeLinear and a change of scale."""
    x = op.inputs[0]
    assert x is not None
    wire = b.wire(x)
    if op.outputs[0].name in b.results and wire.dims.rank < 4:  # as it will be handed out: codes are moved for less
        wire = b.arrange(wire, plain(wire.dims.rank))
    made = b.output(op.outputs[0], wire.order)
    if op.kind == "DequantizeLinear":
        b.emit("DEQUANTIZE", [wire.index], [made], "DequantizeOptions")
    else:
        b.emit("QUANTIZE", [wire.index], [made], "QuantizeOptions")
