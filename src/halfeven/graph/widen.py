"""Widening: a network in float16, bfloat16 or float64 becomes one in float32, the type that is quantized.

    weights, constants    float16, bfloat16   the same values
                          float64             rounded to float32; beyond it, its largest
    what lies between     float32: computed with more digits than in the source; from float64, with fewer
    inputs and outputs    keep their types: a Cast stands behind each input and before each output
    Cast, and `dtype` of what makes tensors
                          to float32 where it was to the source's type; a Cast that has nothing left to do goes

A type is widened if more weights have it than have float32. Weights are the elements of constants of two axes or more
that are not merely cast: float64 that only shape arithmetic uses keeps its digits, weights that a Cast widens anyway
are folded by `constants`, and a part in float16 of a network in float32 stays what it is.
"""

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from halfeven.graph.constants import lift_constants
from halfeven.graph.edit import graphs, remove, unused, value_names, values
from halfeven.graph.names import name_everything
from halfeven.graph.prepare import inline_functions
from halfeven.graph.shapes import infer_shapes
from halfeven.graph.weights import let_go
from halfeven.wording import counted

FLOAT = ir.DataType.FLOAT
NAMES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16", ir.DataType.DOUBLE: "float64"}
LARGEST = float(np.finfo(np.float32).max)


def widened(model: ir.Model, kinds: Collection[ir.DataType] = tuple(NAMES)) -> tuple[ir.Model, list[str]]:
    """The network in float32, if most of its weights are of one of `kinds`; else the same object.

    Returns:
        The model, new where it is another (the source is never changed), and notes for the user.
    """
    sizes = Counter[ir.DataType]()
    for tensor in _weights(model):
        sizes[tensor.dtype] += tensor.size
    found = {kind for kind in kinds if sizes[kind] > sizes[FLOAT]}
    if not found:
        return model, []
    copy = model.clone()
    inline_functions(copy)
    if copy.functions:  # a body that cannot be inlined may cast to a type of its own
        return model, []
    name_everything(copy)
    notes = lift_constants(copy)
    infer_shapes(copy)
    outside = [value for value in (*copy.graph.inputs, *copy.graph.outputs) if value.dtype in found]
    kept = {value: value.dtype for value in outside if value.dtype is not None}
    count = sum(_widen(graph, found) for graph in graphs(copy))
    _cast_interface(copy, kept)
    for node in [node for graph in graphs(copy) for node in graph]:
        _drop_idle(node)
    return copy, [*notes, _note(found, count, bool(kept))]


def _note(found: Collection[ir.DataType], count: int, interface: bool) -> str:
    names = " and ".join(name for kind, name in NAMES.items() if kind in found)
    how = "rounded to float32" if ir.DataType.DOUBLE in found else "turned into float32 without loss"
    ends = "; inputs and outputs keep their type" if interface else ""
    return f"the network is in {names}: {counted(count, 'constant')} {how}, which is what is quantized{ends}"


def _weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Constants of two axes or more that something other than a Cast reads."""
    for graph in graphs(model):
        held = [(value, value.const_value) for value in graph.initializers.values()]
        made = [node for node in graph if node.op_type == "Constant" and "value" in node.attributes]
        held += [(node.outputs[0], node.attributes["value"].as_tensor()) for node in made]
        for value, tensor in held:
            if tensor is not None and len(tensor.shape) > 1 and any(u.node.op_type != "Cast" for u in value.uses()):
                yield tensor


def _widen(graph: ir.Graph, kinds: Collection[ir.DataType]) -> int:
    """Give values, constants and attributes of one graph the type float32; returns how many constants."""
    count = 0
    for value in values(graph):
        if isinstance(value.type, ir.TensorType) and value.dtype in kinds:
            value.type = ir.TensorType(FLOAT)
        tensor = value.const_value
        if value.is_initializer() and tensor is not None and tensor.dtype in kinds:
            value.const_value = _float32(tensor)
            count += 1
    for node in graph:
        for name, attribute in tuple(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in kinds:
                node.attributes[name] = ir.AttrTensor(name, _float32(attribute.as_tensor()))
            elif name in ("to", "dtype") and attribute.type == ir.AttributeType.INT and attribute.as_int() in kinds:
                node.attributes[name] = ir.AttrInt64(name, int(FLOAT))
    return count


def _float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.DOUBLE:
        array = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    found = ir.Tensor(array.astype(np.float32), name=tensor.name, doc_string=tensor.doc_string)
    let_go(tensor)
    return found


def _cast_interface(model: ir.Model, kept: dict[ir.Value, ir.DataType]) -> None:
    """Let inputs and outputs of the main graph have the types in `kept`, with casts between them and what is inside."""
    taken, graph = value_names(model), model.graph
    for value in [value for value in graph.inputs if value in kept]:
        value.type = ir.TensorType(kept[value])
        readers = [(use.node, use.idx) for use in value.uses()]
        cast = _cast(value, FLOAT, unused(f"{value.name}_float32", taken))
        graph.insert_before(graph[0], cast)
        for node, port in readers:
            node.replace_input_with(port, cast.outputs[0])
    made: dict[ir.Value, ir.Value] = {}
    for i, value in enumerate(graph.outputs):
        if value in kept and not value.is_graph_input():
            if value not in made:
                name, value.name = value.name or "", unused(f"{value.name}_float32", taken)
                cast = _cast(value, kept[value], name)
                graph.append(cast)
                made[value] = cast.outputs[0]
            graph.outputs[i] = made[value]


def _cast(value: ir.Value, kind: ir.DataType, name: str) -> ir.Node:
    to = [ir.AttrInt64("to", int(kind))]
    cast = ir.Node("", "Cast", [value], to, num_outputs=1, name=f"{name}_Cast")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(kind), value.shape
    return cast


def _drop_idle(node: ir.Node) -> None:
    """Take out a Cast from float32 to float32, unless a graph hands out what it gives."""
    source = node.inputs[0] if node.op_type == "Cast" and node.domain == "" else None
    if source is None or source.dtype is not FLOAT or node.attributes["to"].value != int(FLOAT):
        return
    if not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(source)
        remove(node)
