"""The int8 codes that ONNX Runtime turns to uint8, and how to watch them without changing what it computes.

Where one DequantizeLinear reads what a QuantizeLinear makes, and one operator reads that or it is an output, ONNX
Runtime on x86 makes the pair uint8 with 128 added to the zero point, and what lies between two such pairs gets the
kernels of uint8. The simulators of those kernels ask here which pairs they are.

A code that is an output of the graph keeps its type, and so does what it leads to: to watch it would be to change it.
Therefore the pair is written as uint8 before it is watched, and 128 taken off again.

Source: onnxruntime/core/optimizer/qdq_transformer/qdq_s8_to_u8.cc.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.pairs import DEQUANTIZE, QUANTIZE, is_border
from halfeven.run.processor import on_arm

OFFSET = 128  # from int8 to uint8


def pairs(graph: ir.Graph) -> list[tuple[ir.Node, ir.Node]]:
    """Each QuantizeLinear whose int8 codes become uint8, and the DequantizeLinear that reads them."""
    return [(node, reader) for node in graph if (reader := _partner(node)) is not None]


def unsigned(model: ir.Model, names: Collection[str], signed: bool = False) -> tuple[ir.Model, list[str]]:
    """The model, or a clone that has the int8 codes among `names` that the runtime would turn as uint8; their names.

    `signed`: the session turns none.
    """
    if signed or on_arm() or not _watched(model, names):
        return model, []
    clone = model.clone()
    watched = _watched(clone, names)
    for node, reader in watched:
        _turn(clone, node, reader)
    return clone, [str(node.outputs[0].name) for node, _ in watched]


def _watched(model: ir.Model, names: Collection[str]) -> list[tuple[ir.Node, ir.Node]]:
    return [pair for pair in pairs(model.graph) if pair[0].outputs[0].name in names]


def signed_again(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The int8 codes of uint8 codes."""
    return (codes ^ np.uint8(OFFSET)).view(np.int8)


def _partner(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that makes a pair with this node, if the runtime turns it."""
    if not is_border(node, QUANTIZE):
        return None
    codes = node.outputs[0]
    uses = list(codes.uses())
    if codes.is_graph_output() or len(uses) != 1 or uses[0].idx or not is_border(uses[0].node, DEQUANTIZE):
        return None
    reader = uses[0].node
    real = reader.outputs[0]
    if reader.graph is not node.graph or len(list(real.uses())) + real.is_graph_output() != 1:
        return None
    zeros = [_zero(n) for n in (node, reader)]
    return reader if zeros[0] is not None and zeros[0] == zeros[1] else None


def _zero(node: ir.Node) -> int | None:
    """The one int8 zero point of a node, else None."""
    held = ops.constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if held is None or held.dtype != ir.DataType.INT8 or "output_dtype" in node.attributes:
        return None
    array = held.numpy()
    return int(array.ravel()[0]) if array.size == 1 else None


def _turn(model: ir.Model, node: ir.Node, reader: ir.Node) -> None:
    old = node.inputs[2]
    held = None if old is None else ops.constant_of(old)
    assert held is not None
    name = f"{node.outputs[0].name}@unsigned"
    zero = (held.numpy().astype(np.int16) + OFFSET).astype(np.uint8)
    tensor = ir.Tensor(zero, name=name)
    value = ir.Value(name=name, shape=ir.Shape(zero.shape), type=ir.TensorType(ir.DataType.UINT8), const_value=tensor)
    model.graph.initializers[name] = value
    for one in (node, reader):
        one.replace_input_with(2, value)
    node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
