"""What the codes of a file with integer operators mean: which scale and zero point go with which value.

    stated      by QuantizeLinear and the integer operators, of what they make; by DequantizeLinear and the integer
                operators, of what they read and nobody before them stated
    carried     over operators that move or pick codes as they are, forward and backward

Only codes of 8 bits under one constant scale have a meaning here.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.pairs import DEQUANTIZE, QUANTIZE, dtype_of, is_border

BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
CLAMPS = ("Max", "Min", "Clip")
MOVES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Tile", "Gather"}
    | {"MaxPool", "Resize", "DepthToSpace", "SpaceToDepth", "Identity", "Concat", *CLAMPS}
)


@dataclass(frozen=True, eq=False)
class Meaning:
    """Scale and zero point as values of the graph, `zero` of the codes' type; `axis`: of several scales, else None."""

    scale: ir.Value
    zero: ir.Value
    axis: int | None = None

    @property
    def dtype(self) -> ir.DataType:
        """Of the codes."""
        found = ops.constant_of(self.zero)
        assert found is not None
        return ir.DataType(found.dtype)

    @property
    def single(self) -> bool:
        """Whether there is one scale."""
        return self.axis is None

    @property
    def numbers(self) -> tuple[float, int, ir.DataType]:
        """The one scale, its zero point, and the codes' type: equal where codes mean the same."""
        scale, zero = ops.constant_of(self.scale), ops.constant_of(self.zero)
        assert scale is not None
        assert zero is not None
        return float(scale.numpy().ravel()[0]), int(zero.numpy().ravel()[0]), self.dtype


def stated_by(node: ir.Node) -> tuple[ir.Value, Meaning] | None:
    """The codes that a QuantizeLinear makes or a DequantizeLinear takes, and their meaning."""
    kind = next((kind for kind in (QUANTIZE, DEQUANTIZE) if is_border(node, kind)), "")
    codes = node.outputs[0] if kind == QUANTIZE else node.inputs[0] if kind else None
    scale, zero = (node.inputs[port] if port < len(node.inputs) else None for port in (1, 2))
    found = meaning_of(scale, zero)
    return None if codes is None or found is None or "block_size" in node.attributes else (codes, found)


def meaning_of(scale: ir.Value | None, zero: ir.Value | None) -> Meaning | None:
    """Of codes with one constant scale and zero point; None where they have others, or are no bytes."""
    a, b = ops.constant_of(scale), ops.constant_of(zero)
    if scale is None or zero is None or a is None or b is None or a.size != 1 or b.size != 1:
        return None
    return Meaning(scale, zero) if a.dtype == ir.DataType.FLOAT and b.dtype in BYTES else None


def carry(graph: ir.Graph, known: dict[ir.Value, Meaning]) -> None:
    """Add to `known` what moves give on, until nothing is added."""
    while True:
        before = len(known)
        for node in (*graph, *reversed(list(graph))):
            codes = moved(node)
            meaning = next((known[value] for value in codes if value in known), None)
            if meaning is not None:
                known.update({value: meaning for value in codes if value not in known})
        if len(known) == before:
            return


def moved(node: ir.Node) -> list[ir.Value]:
    """The codes that a node would move, if it moves codes: what it reads, but for constants, then what it makes."""
    if node.op_type not in MOVES or node.domain or (node.op_type in CLAMPS and bounds(node) is None):
        return []
    if node.op_type == "Resize" and ops.attribute(node, "mode", "nearest") != "nearest":
        return []
    read = [v for v in node.inputs[: None if node.op_type == "Concat" else 1] if v is not None]
    computed = [v for v in read if ops.constant_of(v) is None]
    made = [v for v in node.outputs if v.uses() or v.is_graph_output()]
    if len(made) > 1 and node.op_type != "Split":  # indices of MaxPool
        return []
    return [*computed, *made] if computed and all(dtype_of(v) in (None, *BYTES) for v in (*read, *made)) else []


def bounds(node: ir.Node) -> tuple[int | None, int | None] | None:
    """The least and the greatest code that a Max, Min or Clip lets pass; None where they are no constants."""
    if node.inputs[0] is None or ops.constant_of(node.inputs[0]) is not None or len(node.inputs) not in (2, 3):
        return None
    found: list[int | None] = []
    for value in node.inputs[1:]:
        tensor = ops.constant_of(value)
        if value is not None and (tensor is None or tensor.size != 1 or tensor.dtype not in BYTES):
            return None
        found.append(None if tensor is None else int(np.asarray(tensor.numpy()).ravel()[0]))
    if node.op_type != "Clip":
        return None if len(found) != 1 else (found[0], None) if node.op_type == "Max" else (None, found[0])
    low, high = (*found, None)[:2]
    return None if low is not None and high is not None and low > high else (low, high)
