"""The layers in which the sum of two products can leave 16 bits, where some runtime adds products so.

    saturating    uint8 times constant int8, on x86 without VNNI: pairs by exact bounds over the input's codes
                  (`numerics.overflow`); weights of 7 bits cannot
    wrapping      depthwise, constant int8 with zero point 0, in ONNX Runtime on Arm64: pairs of weights that are both
                  -128 (`numerics.product_pairs`); weights from -127 cannot

Layers are Conv, MatMul and Gemm between quantize and dequantize, and QLinearConv and QLinearMatMul.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.graph.network import Network, Op
from halfeven.numerics.overflow import pair_ranges
from halfeven.numerics.product_pairs import depthwise, wrapping_pairs
from halfeven.run.integer.machine import code_type, constant_codes

Codes = npt.NDArray[Any]
EXPLICIT = ("QLinearConv", "QLinearMatMul")  # operands: codes, scale and zero point of each


@dataclass(frozen=True)
class Held:
    """A layer with constant weights: their codes, zero points and groups, and the dtype of the codes that it reads."""

    codes: Codes
    zero_point: Codes
    groups: int
    reads: np.dtype[Any]


def saturating_layers(network: Network) -> dict[str, int]:
    """Of each layer that can saturate without VNNI, how many pairs of products."""
    return {op.name: count for op in network.ops if (held := _held(op)) is not None and (count := _pairs(op, held))}


def wrapping_layers(network: Network) -> dict[str, int]:
    """Of each layer whose sums can wrap in ONNX Runtime on Arm64, how many pairs of weights."""
    found = {op.name: _held(op) for op in network.ops if op.kind in ("Conv", "QLinearConv")}
    counts = {name: wrapping_pairs(h.codes, h.zero_point, h.groups) for name, h in found.items() if h is not None}
    return {name: count for name, count in counts.items() if count}


def _held(op: Op) -> Held | None:
    explicit = op.kind in EXPLICIT
    if not explicit and op.kind not in ("Conv", "MatMul", "Gemm"):
        return None
    groups = int(op.attributes.get("group", 1))
    if explicit:
        read, codes, zeros = (None if t is None else t.data for t in (op.inputs[port] for port in (2, 3, 5)))
        return None if read is None or codes is None or zeros is None else Held(codes, zeros, groups, read.dtype)
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
    rows = codes if op.kind == "Gemm" and op.attributes.get("transB", 0) else np.moveaxis(codes, -1, 0)
    return int(sum(r.saturating_pairs for r in pair_ranges(np.ascontiguousarray(rows))))
