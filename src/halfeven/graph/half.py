"""Half precision: nodes of a float32 network computed in float16 or bfloat16, with casts where they meet the others.

    x float32 -> Cast -> Conv (float16, weights float16) -> Cast -> Softmax (float32)

Chosen nodes read and give 16-bit numbers wherever the operator's ONNX schema allows them: the `scales` of a Resize,
which are float32 by the standard, stay so. A value keeps its name where it is float32; its 16-bit form is called
NAME_float16 or NAME_bfloat16, and is made once for all readers. Constants that only chosen nodes read are stored in 16
bits, those that others read too in both types. Inputs and outputs keep their type unless asked otherwise.

    stays float32 whatever is chosen          reason
    Cast                                      its type is stated, and integers beyond 2048 are no float16
    operators that make a type of their own   ConstantOfShape, RandomNormal: nothing that they read is halved
    bodies of If, Loop, Scan                  their values are out of reach here
    QuantizeLinear and its kin                scales are float32

Half to even, numbers beyond the largest become infinite: who chooses the nodes has looked at the numbers (steps.half).

Source: ONNX operator schemas, as the installed `onnx` has them.
"""

from collections.abc import Collection
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.edit import add_initializer, drop_unread, subgraphs, unused, value_names

FLOAT = ir.DataType.FLOAT
KINDS = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
WORDS = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
UNTYPED = frozenset({"Shape", "Size"})  # no number of what they read goes on


def to_half(
    model: ir.Model, kind: ir.DataType, chosen: Collection[str], *, interface: bool = False
) -> tuple[ir.Model, int]:
    """A model that computes the nodes named in `chosen` in 16 bits, as far as they can be; and how many are.

    Args:
        model: Named throughout, constants lifted, types inferred; not changed.
        kind: FLOAT16 or BFLOAT16.
        chosen: Names of nodes of the main graph.
        interface: Whether float32 inputs and outputs become 16-bit too.
    """
    copy = model.clone()
    halver = _Halver(copy, kind)
    if interface:
        halver.inputs()
    nodes = [node for node in copy.graph if node.name in chosen and halvable(node, kind)]
    for node in nodes:
        halver.halve(node)
    if interface:
        halver.outputs()
    halver.tidy()
    return copy, len(nodes)


def halvable(node: ir.Node, kind: ir.DataType) -> bool:
    """Whether a node reads float32 numbers that may be 16-bit, and gives none that may not."""
    if node.domain != "" or node.op_type == "Cast" or node.op_type in ops.QUANTIZED_OPS or any(subgraphs(node)):
        return False
    ports = half_ports(node, kind)
    kinds = _kinds(node, kind)
    if not ports or kinds is None:
        return False
    bound = {kinds[0][min(port, len(kinds[0]) - 1)][0] for port in ports}
    given = [_formal(kinds[1], i) for i, v in enumerate(node.outputs) if v.dtype is FLOAT and v.name]
    if any(v.dtype is None for v in node.outputs if v.name) or not (given or node.op_type in UNTYPED):
        return False
    return all(letter in bound and allowed for letter, allowed in given)


def half_ports(node: ir.Node, kind: ir.DataType) -> list[int]:
    """The float32 inputs that may be 16-bit."""
    kinds = _kinds(node, kind)
    if kinds is None:
        return []
    floats = [port for port, value in enumerate(node.inputs) if value is not None and value.dtype is FLOAT]
    return [port for port in floats if _formal(kinds[0], port)[1]]


Formals = tuple[tuple[str, bool], ...]


def _formal(formals: Formals, port: int) -> tuple[str, bool]:
    """Type letter of a formal parameter, and whether it allows the 16-bit type; the last may be variadic."""
    return formals[min(port, len(formals) - 1)]


def _kinds(node: ir.Node, kind: ir.DataType) -> tuple[Formals, Formals] | None:
    version = node.graph.opset_imports.get("", 0) if node.graph is not None else 0
    return _schema_kinds(node.op_type, version, f"tensor({WORDS[kind]})")


@cache
def _schema_kinds(op: str, version: int, kind: str) -> tuple[Formals, Formals] | None:
    try:
        schema = onnx.defs.get_schema(op, version, "")
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: kind in c.allowed_type_strs for c in schema.type_constraints}
    inputs, outputs = (
        tuple((f.type_str, allowed.get(f.type_str, f.type_str == kind)) for f in formals)
        for formals in (schema.inputs, schema.outputs)
    )
    return inputs, outputs


class _Halver:
    """Edits one clone."""

    def __init__(self, model: ir.Model, kind: ir.DataType) -> None:
        self.model, self.kind, self.names = model, kind, value_names(model)
        self.halves: dict[ir.Value, ir.Value] = {}
        self.casts: list[ir.Node] = []

    def halve(self, node: ir.Node) -> None:
        """Let a node read and give 16-bit numbers."""
        for port in half_ports(node, self.kind):
            value = node.inputs[port]
            assert value is not None
            node.replace_input_with(port, self.half(value))
        for value in node.outputs:
            if value.dtype is not FLOAT or not value.name:
                continue
            cast = self._cast(value, FLOAT, "")
            value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
            cast.replace_input_with(0, value)
            cast.outputs[0].name, value.name = value.name, self._named(value.name)
            value.type = ir.TensorType(self.kind)
            node.append(cast)
            self.halves[cast.outputs[0]] = value

    def half(self, value: ir.Value) -> ir.Value:
        """The 16-bit form of a float32 value."""
        if value not in self.halves:
            tensor = ops.constant_of(value)
            name = self._named(value.name or "")
            if tensor is not None and value.graph is self.model.graph:
                self.halves[value] = add_initializer(self.model.graph, name, _halved(tensor, self.kind, name))
            else:
                cast = self._cast(value, self.kind, name)
                producer = value.producer()
                if producer is not None and producer.graph is self.model.graph:
                    producer.append(cast)
                else:
                    self.model.graph.insert_before(self.model.graph[0], cast)
                self.halves[value] = cast.outputs[0]
        return self.halves[value]

    def inputs(self) -> None:
        """Let the model take 16-bit numbers; a cast stands where float32 is read."""
        for value in self.model.graph.inputs:
            if value.dtype is not FLOAT or value.name in self.model.graph.initializers:
                continue
            cast = self._cast(value, FLOAT, unused(f"{value.name}_float32", self.names))
            value.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, value)
            value.type = ir.TensorType(self.kind)
            self.model.graph.insert_before(self.model.graph[0], cast)
            self.halves[cast.outputs[0]] = value

    def outputs(self) -> None:
        """Let the model give 16-bit numbers."""
        for i, value in enumerate(self.model.graph.outputs):
            if value.dtype is FLOAT and not value.is_graph_input() and not value.is_initializer():
                half = self.half(value)
                name, value.name = value.name, unused(f"{value.name}_float32", self.names)
                half.name, self.model.graph.outputs[i] = name, half

    def tidy(self) -> None:
        """Take out casts and constants that nobody reads."""
        for cast in reversed(self.casts):
            if not cast.outputs[0].uses() and not cast.outputs[0].is_graph_output():
                self.model.graph.remove(cast, safe=True)
        drop_unread(self.model.graph)

    def _named(self, name: str) -> str:
        return unused(f"{name}_{WORDS[self.kind]}", self.names)

    def _cast(self, value: ir.Value, kind: ir.DataType, name: str) -> ir.Node:
        to = [ir.AttrInt64("to", int(kind))]
        label = unused(f"{value.name}_to_{'float32' if kind is FLOAT else WORDS[kind]}", self.names)
        cast = ir.Node("", "Cast", [value], to, num_outputs=1, name=label)
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(kind), value.shape
        self.casts.append(cast)
        return cast


def _halved(tensor: ir.TensorProtocol, kind: ir.DataType, name: str) -> ir.TensorProtocol:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(partial(_evaluate, tensor, kind, name), kind, shape, name=name)


def _evaluate(tensor: ir.TensorProtocol, kind: ir.DataType, name: str) -> ir.TensorProtocol:
    return ir.Tensor(halved(tensor.numpy(), kind), dtype=kind, name=name)


def halved(x: npt.NDArray[np.generic], kind: ir.DataType) -> npt.NDArray[np.generic]:
    """`x` in 16 bits, half to even; numbers beyond the largest become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x.astype(np.float32, copy=False)).astype(kind.numpy())
