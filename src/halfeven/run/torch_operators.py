"""Spellings of PyTorch's exporter, and the ones that targets and folding know.

    exporter                                                here
    CastLike(x, y)                                          Cast(x, to = y's type)
    Reshape(x, shape computed from sizes), one axis open    Reshape(x, [-1, 64])
    ReduceMean(x, axes 2 and 3), x of rank 4, keepdims      GlobalAveragePool(x)
    the same without keepdims                               Flatten(GlobalAveragePool(x))
    SequenceAt(SplitToSequence(x, 8), 1), for chunk         the second output of Split(x, [8, 8])

CastLike is how it writes each number in a formula, the zero bias of a convolution that has none, and the limits of a
ReLU6: not constants as long as y is not, so that neither BatchNormalization nor clamp could be folded.
"""

import numpy as np
import onnx_ir as ir

from halfeven.graph.edit import graphs
from halfeven.graph.prune import remove_dead

KEEPING = frozenset({"Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity", "Split", "Expand",
                     "Concat", "Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Conv", "Softmax"})  # fmt: skip
"""Operators whose outputs have the type of their first input."""


def respell(model: ir.Model) -> None:
    """Rewrite in place, and remove what nobody reads any more."""
    for graph in graphs(model):
        for node in tuple(graph):
            if node.domain == "" and (rule := _RULES.get(node.op_type)):
                rule(node)
    remove_dead(model)


def _cast(node: ir.Node) -> None:
    dtype = _dtype(node.inputs[1])
    if dtype is not None:
        substitute(node, ir.node("Cast", [node.inputs[0]], {"to": int(dtype)}))


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value, which the exporter leaves out inside of its own functions: that of what it is made from."""
    while value is not None and value.dtype is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in KEEPING and node.inputs else None
    return None if value is None else value.dtype


def _reshape(node: ir.Node) -> None:
    shape, target = node.outputs[0].shape, node.inputs[1]
    if shape is None or target is None or (made := target.producer()) is None or made.op_type == "Constant":
        return
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) == 1 and 0 not in sizes:
        constant = ir.node("Constant", [], {"value": ir.tensor(np.array(sizes, np.int64))})
        substitute(node, constant, ir.node("Reshape", [node.inputs[0], constant.outputs[0]]))


def _mean(node: ir.Node) -> None:
    x, axes = node.inputs[0], _integers(node.inputs[1]) if len(node.inputs) > 1 else ()
    if x is None or x.shape is None or x.shape.rank() != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        return
    pool = ir.node("GlobalAveragePool", [x])
    keepdims = node.attributes.get_int("keepdims", 1)
    substitute(node, *([pool] if keepdims else [pool, ir.node("Flatten", pool.outputs, {"axis": 1})]))


def _split(node: ir.Node) -> None:
    """Only where every part is asked for by its constant number, and the length of the axis is known."""
    x, reads = node.inputs[0], [use.node for use in node.outputs[0].uses()]
    axis, lengths = node.attributes.get_int("axis", 0), _integers(node.inputs[1])
    if x is None or x.shape is None or not lengths or not node.attributes.get_int("keepdims", 1):
        return
    whole, split = x.shape[axis], node.inputs[1]
    if not isinstance(whole, int) or any(n.op_type != "SequenceAt" or not _integers(n.inputs[1]) for n in reads):
        return
    if split is not None and ir.convenience.get_const_tensor(split).numpy().ndim == 0:  # type: ignore[union-attr]
        each = lengths[0]
        lengths = tuple(min(each, whole - start) for start in range(0, whole, each))
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array(lengths, np.int64))})
    made = ir.node("Split", [x, constant.outputs[0]], {"axis": axis}, num_outputs=len(lengths))
    for one in (constant, made):
        one.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    node.graph.insert_before(node, [constant, made])
    for read in reads:
        part = made.outputs[_integers(read.inputs[1])[0]]
        part.shape, part.type = read.outputs[0].shape, read.outputs[0].type
        ir.convenience.replace_all_uses_with(read.outputs[0], part)


_RULES = {"CastLike": _cast, "Reshape": _reshape, "ReduceMean": _mean, "SplitToSequence": _split}


def _integers(value: ir.Value | None) -> tuple[int, ...]:
    """The integers of a constant, through any Reshape; empty if it is something else."""
    if value is None:
        return ()
    node = value.producer()
    if node is not None and node.op_type == "Reshape":
        return _integers(node.inputs[0])
    tensor = ir.convenience.get_const_tensor(value)
    return () if tensor is None else tuple(int(i) for i in tensor.numpy().reshape(-1))


def substitute(node: ir.Node, *made: ir.Node) -> None:
    """Put `made` in the place of `node`; the last one gives its output."""
    for one in made:
        one.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(
        node.graph,
        node,
        [node],
        list(made),
        [node.outputs[0]],
        [made[-1].outputs[0]],
    )
