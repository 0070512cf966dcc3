"""Transposes that put channels last are moved down the graph until they meet those that put them first, and vanish.

    f(T(x), T(y), c) = T(f(x, y, T'(c)))     f element by element; T' undoes T; c constant, or one number per channel
    Concat(T(x), T(y), axis i) = T(Concat(x, y, axis perm[i]))
    Pad(T(x)) = T(Pad(x)), Resize(T(x)) = T(Resize(x)), with their numbers in the other order
    Reduce(T(x), axes) = T(Reduce(x, perm[axes])); without T if no axis is kept but the first two
    T2(T(x)) = x, or one Transpose

A framework with channels last that computes by one with channels first transposes around each layer. One pass in the
order of computation suffices, as what is moved only ever gets behind the node that it stood before. What reads the
order of axes itself, such as Reshape, keeps its Transpose.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from halfeven.graph.edit import constant, remove
from halfeven.run.torch_nodes import integers, perm_of, put_constant, to_first, to_last, transposed

POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu", "Where", "Relu", "Clip", "Sigmoid", "Tanh", "HardSwish"}
    | {"HardSigmoid", "LeakyRelu", "Elu", "Selu", "Celu", "Erf", "Exp", "Log", "Neg", "Abs", "Sqrt", "Reciprocal"}
    | {"Softplus", "Softsign", "Gelu", "Mish", "Identity", "Cast", "Floor", "Ceil", "Round", "Sign"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
)
REDUCING = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"})


def channels_first(graph: ir.Graph) -> None:
    """Move the Transposes of a graph, whose values have shapes, in place; constants must be initializers."""
    for node in tuple(graph):
        if node.domain:
            continue
        if node.op_type == "Transpose":
            _joined(node)
        elif node.op_type in POINTWISE:
            _pointwise(node)
        elif node.op_type == "Concat":
            _concat(node)
        elif node.op_type == "Pad":
            _pad(node)
        elif node.op_type == "Resize":
            _resize(node)
        elif node.op_type in REDUCING:
            _reduce(node)


def _before(value: ir.Value | None) -> ir.Value | None:
    """What `value` is with its channels behind the batch, if a Transpose puts them last."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or (perm := perm_of(node)) != to_last(len(perm)) or len(perm) < 3:
        return None
    return node.inputs[0]


def _sink(node: ir.Node, perm: Sequence[int]) -> None:
    """Put a Transpose behind `node`, which now reads other inputs, so that its readers find what they found before."""
    value, shape = node.outputs[0], node.outputs[0].shape
    if list(perm) == sorted(perm):
        return
    made = ir.node("Transpose", [None], {"perm": list(perm)})
    made.metadata_props.update(node.metadata_props)
    made.outputs[0].shape, made.outputs[0].type = shape, value.type
    value.replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
    made.replace_input_with(0, value)
    value.shape = None if shape is None else ir.Shape([shape[perm.index(axis)] for axis in range(len(perm))])
    assert node.graph is not None
    node.graph.insert_after(node, made)


def _joined(node: ir.Node) -> None:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
        return
    first = perm_of(before)
    perm = [first[axis] for axis in perm_of(node)]
    if perm == sorted(perm):
        node.outputs[0].replace_all_uses_with(before.inputs[0], replace_graph_outputs=True)
        remove(node)
        return
    node.replace_input_with(0, before.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", perm)


def _pointwise(node: ir.Node) -> None:
    sources = [_before(value) for value in node.inputs]
    shape = node.outputs[0].shape
    if shape is None or not any(sources) or len(node.outputs) != 1:
        return
    rank = shape.rank()
    if any(source is not None and (source.shape is None or source.shape.rank() != rank) for source in sources):
        return
    pairs = list(zip(node.inputs, sources, strict=True))
    if not all(value is None or source is not None or _can_turn(value, rank) for value, source in pairs):
        return
    for port, (value, source) in enumerate(pairs):
        if value is not None:
            node.replace_input_with(port, source if source is not None else _turned(node, value, rank))
    _sink(node, to_last(rank))


def _can_turn(value: ir.Value, rank: int) -> bool:
    """Whether `value` costs nothing to bring into the other order: constant, or with one number per channel."""
    if value.shape is None or value.shape.rank() > rank:
        return False
    if _is_fixed(value):
        return all(isinstance(size, int) for size in value.shape)
    return value.shape.rank() == rank and all(size == 1 for size in tuple(value.shape)[1:-1])


def _is_fixed(value: ir.Value) -> bool:
    """Whether it is made of constants alone, by operators that move numbers."""
    while (node := value.producer()) is not None and node.op_type in ("Reshape", "Transpose", "Unsqueeze", "Squeeze"):
        if node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return value.is_initializer() and not value.is_graph_input()


def _turned(node: ir.Node, value: ir.Value, rank: int) -> ir.Value:
    assert value.shape is not None
    assert node.graph is not None
    sizes = list(value.shape)
    if all(size == 1 for size in sizes):
        return value
    if len(sizes) < rank:
        wider = [1] * (rank - len(sizes)) + [int(size) for size in sizes if isinstance(size, int)]
        made = ir.node("Constant", [], {"value": ir.tensor(np.array(wider, np.int64))})
        shaped = ir.node("Reshape", [value, made.outputs[0]])
        shaped.outputs[0].shape, shaped.outputs[0].type = ir.Shape(wider), value.type
        node.graph.insert_before(node, [made, shaped])
        value = shaped.outputs[0]
    turned = transposed(value, to_first(rank))
    turned.metadata_props.update(node.metadata_props)
    node.graph.insert_before(node, turned)
    return turned.outputs[0]


def _concat(node: ir.Node) -> None:
    sources = [_before(value) for value in node.inputs]
    ranks = {source.shape.rank() for source in sources if source is not None and source.shape is not None}
    if not all(source is not None for source in sources) or len(ranks) != 1:
        return
    (rank,) = ranks
    for port, source in enumerate(sources):
        node.replace_input_with(port, source)
    axis = to_last(rank)[node.attributes.get_int("axis", 0) % rank]
    node.attributes["axis"] = ir.AttrInt64("axis", axis)
    _sink(node, to_last(rank))


def _pad(node: ir.Node) -> None:
    source, pads = _before(node.inputs[0]), integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return
    rank = len(pads) // 2
    order = to_first(rank)
    node.replace_input_with(0, source)
    put_constant(node, 1, np.array([*(pads[axis] for axis in order), *(pads[rank + axis] for axis in order)]))
    _sink(node, to_last(rank))


def _resize(node: ir.Node) -> None:
    source, scales = _before(node.inputs[0]), constant(node.inputs[2]) if len(node.inputs) == 3 else None
    if source is None or scales is None or "axes" in node.attributes:
        return
    order = to_first(scales.size)
    node.replace_input_with(0, source)
    put_constant(node, 2, scales.numpy()[order])
    _sink(node, to_last(scales.size))


def _reduce(node: ir.Node) -> None:
    source, axes = _before(node.inputs[0]), integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or not axes:
        return
    perm = to_last(rank := source.shape.rank())
    axes = [axis % rank for axis in axes]
    kept = [perm[axis] for axis in range(rank) if axis not in axes]
    node.replace_input_with(0, source)
    put_constant(node, 1, np.array(sorted(perm[axis] for axis in axes)))
    _sink(node, perm if node.attributes.get_int("keepdims", 1) else [sorted(kept).index(axis) for axis in kept])
