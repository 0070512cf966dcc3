"""What an operator is, as far as quantization cares: one table.

    operator        data port  weight port  output-channel axis of the weight       bias port  multiply-adds
    Conv            0          1            0                                       2          out * C/g * kernel
    ConvTranspose   0          1            1 (groups of 1 only)                    2          in * C/g * kernel
    Gemm            0          1            0 when transB, else 1                   2          out * K
    MatMul          0          1            last (the constant operand)             -          out * K
    Gather          -          0            0                                       -          0

Weights are per-channel along the axis over which one output channel has one scale, so that the scale leaves the sum.
`SHAPE_OPS` make shapes and indices, never data: they are not quantized. `POST_OPS` end a detector: what follows them,
and what leads from the last layer to them, is post-processing.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.graph import edit


@dataclass(frozen=True)
class Traits:
    """The ports of an operator that multiplies data by constants."""

    weight: int
    bias: int | None = None
    data: int = 0


TRAITS: dict[str, Traits] = {
    "Conv": Traits(weight=1, bias=2),
    "ConvTranspose": Traits(weight=1, bias=2),
    "Gemm": Traits(weight=1, bias=2),
    "MatMul": Traits(weight=1),
    "Gather": Traits(weight=0, data=-1),
}

COMPUTE_OPS = frozenset(TRAITS) - {"Gather"}
RECURRENT_OPS = frozenset({"LSTM", "GRU", "RNN"})
SHAPE_OPS = frozenset({"Shape", "Size", "NonZero", "Range", "ConstantOfShape", "EyeLike", "OneHot"})
POST_OPS = frozenset({"NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "RoiAlign", "MaxRoiPool", "Unique"})
QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "MatMulNBits", "DynamicQuantizeLSTM"}
)
LITERT_KIND = "halfeven.litert.kind"
"""Metadata of a Conv from a .tflite file: which operator it is there. The kernels of each round in their own way."""


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that nobody can change, or None for anything computed or fed."""
    return edit.constant(value)


def holds_nan(value: ir.Value) -> bool:
    """Whether a value is a constant with a NaN."""
    tensor = constant_of(value)
    return tensor is not None and tensor.dtype in FLOATS and bool(np.isnan(tensor.numpy().astype(np.float32)).any())


def dims_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """A tensor's shape, as integers."""
    return tuple(int(d) for d in tensor.shape.numpy())


def weight_port(node: ir.Node) -> int | None:
    """The port that holds the node's constant weight, or None when it has none.

    MatMul takes its constant on either side; Gather only counts with a constant floating-point table.
    """
    traits = TRAITS.get(node.op_type) if node.domain == "" else None
    if traits is None:
        return None
    ports = (1, 0) if node.op_type == "MatMul" else (traits.weight,)
    for port in ports:
        tensor = constant_of(node.inputs[port]) if port < len(node.inputs) else None
        if tensor is not None and tensor.dtype in FLOATS and len(tensor.shape) >= 2:
            return port
    return None


def has_codes(node: ir.Node) -> bool:
    """Whether the source model holds the node's weight in integer codes, behind a DequantizeLinear."""
    traits = TRAITS.get(node.op_type) if node.domain == "" else None
    value = node.inputs[traits.weight] if traits is not None and traits.weight < len(node.inputs) else None
    maker = value.producer() if value is not None else None
    return maker is not None and maker.op_type == "DequantizeLinear" and constant_of(maker.inputs[0]) is not None


def is_layer(node: ir.Node) -> bool:
    """Whether a node multiplies data by constant weights."""
    return node.op_type in COMPUTE_OPS and weight_port(node) is not None


def data_ports(node: ir.Node) -> list[int]:
    """Ports that carry floating-point activations (not constants, not absent)."""
    return [
        port
        for port, value in enumerate(node.inputs)
        if value is not None and constant_of(value) is None and value.dtype in FLOATS | {None}
    ]


FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def weight_axis(node: ir.Node, port: int) -> int | None:
    """The output-channel axis of the weight at `port`, or None where the kernels take one scale only."""
    tensor = constant_of(node.inputs[port])
    rank = 0 if tensor is None else len(tensor.shape)
    match node.op_type:
        case "Conv":
            return 0
        case "Gather":
            return 0 if attribute(node, "axis", 0) == 0 else None
        case "ConvTranspose":
            return 1 if attribute(node, "group", 1) == 1 else None
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        case "MatMul" if rank == 2:
            return rank - 1 if port == 1 else rank - 2
    return None


def bias_of(node: ir.Node) -> ir.Value | None:
    """The bias input of a layer, when it has one."""
    traits = TRAITS.get(node.op_type)
    if traits is None or traits.bias is None or traits.bias >= len(node.inputs):
        return None
    return node.inputs[traits.bias]


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def multiply_adds(node: ir.Node, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one run of a compute node, given recorded shapes; 0 when they are not known."""
    shape_in = [shape_of(v, shapes) for v in node.inputs]
    out = shapes.get(node.outputs[0].name or "")
    if out is None or shape_in[0] is None or len(shape_in) < 2 or shape_in[1] is None:
        return 0
    match node.op_type:
        case "Conv":
            return prod(out) * prod(shape_in[1][1:])
        case "ConvTranspose":
            return prod(shape_in[0]) * prod(shape_in[1][1:])
        case "Gemm":
            return prod(out) * shape_in[0][0 if attribute(node, "transA", 0) else 1]
        case "MatMul":
            return prod(out) * shape_in[0][-1]
    return 0


def shape_of(value: ir.Value | None, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The recorded shape of a value, or a constant's own."""
    if value is None:
        return None
    tensor = constant_of(value)
    if tensor is not None:
        return dims_of(tensor)
    return shapes.get(value.name or "")


def is_depthwise(node: ir.Node) -> bool:
    """True for a convolution with one input channel a group."""
    weight = constant_of(node.inputs[1]) if node.op_type == "Conv" else None
    return weight is not None and attribute(node, "group", 1) == weight.shape[0] and dims_of(weight)[1] == 1
