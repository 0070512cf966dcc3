"""The layers in which the sum of two products can leave 16 bits, where some runtime adds products so.

    saturating    uint8 times constant int8, on x86 without VNNI: pairs by exact bounds over the input's codes
                  (`numerics.overflow`); weights of 7 bits cannot
    wrapping      depthwise, constant int8 with zero point 0, in ONNX Runtime on Arm64: pairs of weights that are both
                  -128 (`numerics.product_pairs`); weights from -127 cannot

Layers are Conv, MatMul and Gemm between quantize and dequantize, and the integer operators of `EXPLICIT`. An integer
operator that stands for a layer of the float network has its name; those that compute sums alone have one of their own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph.network import Network, Op
from halfeven.numerics.overflow import pair_ranges
from halfeven.numerics.product_pairs import depthwise, wrapping_pairs
from halfeven.run.integer.machine import code_type, constant_codes

Codes = npt.NDArray[Any]
EXPLICIT = {  # the ports of what has the type of the codes read, of the weight's codes, and of its zero point
    "QLinearConv": (2, 3, 5),
    "QLinearMatMul": (2, 3, 5),
    "QGemm": (2, 3, 5),
    "MatMulIntegerToFloat": (4, 1, 5),
    "ConvInteger": (0, 1, 3),
    "MatMulInteger": (0, 1, 3),
}
FLOAT = {"QLinearConv": "Conv", "QLinearMatMul": "MatMul", "MatMulIntegerToFloat": "MatMul", "QGemm": "Gemm"}
"""The operator that an integer one stands for; MatMulInteger and ConvInteger are but a part of one."""


@dataclass(frozen=True)
class Held:
    """A layer with constant weights: their codes, zero points and groups, and the dtype of the codes that it reads."""

    codes: Codes
    zero_point: Codes
    groups: int
    reads: np.dtype[Any]


def saturating_layers(network: Network) -> dict[str, int]:
    """Of each layer that can saturate without VNNI, how many pairs of products."""
    return {
        layer_of(op): count for op in network.ops if (held := _held(op)) is not None and (count := _pairs(op, held))
    }


def wrapping_layers(network: Network) -> dict[str, int]:
    """Of each layer whose sums can wrap in ONNX Runtime on Arm64, how many pairs of weights."""
    found = {layer_of(op): _held(op) for op in network.ops if op.kind in ("Conv", "QLinearConv")}
    counts = {name: wrapping_pairs(h.codes, h.zero_point, h.groups) for name, h in found.items() if h is not None}
    return {name: count for name, count in counts.items() if count}


def layer_of(op: Op) -> str:
    """The name that a layer has in the float network; ONNX Runtime's quantizer puts `_quant` behind it."""
    integer = op.explicit or op.kind in EXPLICIT
    return op.name.removesuffix("_quant") if integer else op.name


def float_operator(op: Op) -> str:
    """The operator of a layer in the float network, empty where it has another name there."""
    return FLOAT.get(op.kind, "" if op.kind in EXPLICIT else op.kind)


def _held(op: Op) -> Held | None:
    if op.kind not in EXPLICIT and op.kind not in ("Conv", "MatMul", "Gemm"):
        return None
    groups = int(op.attributes.get("group", 1))
    if op.kind in EXPLICIT:
        read, weight, zero = (op.inputs[p] if p < len(op.inputs) else None for p in EXPLICIT[op.kind])
        codes = None if weight is None else weight.data
        if read is None or codes is None:
            return None
        zeros = np.zeros((), codes.dtype) if zero is None or zero.data is None else zero.data
        known = read.dtype is not ir.DataType.UNDEFINED  # DynamicQuantizeLinear makes uint8
        return Held(codes, zeros, groups, read.dtype.numpy() if known else np.dtype(np.uint8))
    data, weight = op.inputs[:2]
    if data is None or data.params is None or weight is None or weight.params is None or weight.data is None:
        return None
    return Held(constant_codes(weight), weight.params.zero_point, groups, code_type(data))


def _pairs(op: Op, held: Held) -> int:
    codes = held.codes
    if held.reads != np.uint8 or codes.dtype != np.int8 or depthwise(codes, held.groups):
        return 0
    if "Conv" in op.kind:
        return int(sum(r.saturating_pairs for r in pair_ranges(np.moveaxis(codes, 1, -1))))
    rows = codes if "Gemm" in op.kind and op.attributes.get("transB", 0) else np.moveaxis(codes, -1, 0)
    return int(sum(r.saturating_pairs for r in pair_ranges(np.ascontiguousarray(rows))))
