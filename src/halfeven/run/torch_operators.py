"""Spellings of PyTorch's exporter, and the ones that targets and folding know.

    exporter                                                here
    CastLike(x, y)                                          Cast(x, to = y's type)
    Reshape(x, shape computed from sizes), one axis open    Reshape(x, [-1, 64])
    ReduceMean(x, axes 2 and 3), x of rank 4, keepdims      GlobalAveragePool(x)
    the same without keepdims                               Flatten(GlobalAveragePool(x))

CastLike is how it writes each number in a formula, the zero bias of a convolution that has none, and the limits of a
ReLU6: not constants as long as y is not, so that neither BatchNormalization nor clamp could be folded.
"""

import numpy as np
import onnx_ir as ir

from halfeven.graph.edit import graphs
from halfeven.graph.prune import remove_dead


def respell(model: ir.Model) -> None:
    """Rewrite in place, and remove what nobody reads any more."""
    for graph in graphs(model):
        for node in tuple(graph):
            if node.domain == "" and (rule := _RULES.get(node.op_type)):
                rule(node)
    remove_dead(model)


def _cast(node: ir.Node) -> None:
    like = node.inputs[1]
    if like is not None and like.dtype is not None:
        _replace(node, ir.node("Cast", [node.inputs[0]], {"to": int(like.dtype)}))


def _reshape(node: ir.Node) -> None:
    shape, target = node.outputs[0].shape, node.inputs[1]
    if shape is None or target is None or (made := target.producer()) is None or made.op_type == "Constant":
        return
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) == 1 and 0 not in sizes:
        constant = ir.node("Constant", [], {"value": ir.tensor(np.array(sizes, np.int64))})
        _replace(node, constant, ir.node("Reshape", [node.inputs[0], constant.outputs[0]]))


def _mean(node: ir.Node) -> None:
    x, axes = node.inputs[0], _integers(node.inputs[1]) if len(node.inputs) > 1 else ()
    if x is None or x.shape is None or x.shape.rank() != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
        return
    pool = ir.node("GlobalAveragePool", [x])
    keepdims = node.attributes.get_int("keepdims", 1)
    _replace(node, *([pool] if keepdims else [pool, ir.node("Flatten", pool.outputs, {"axis": 1})]))


_RULES = {"CastLike": _cast, "Reshape": _reshape, "ReduceMean": _mean}


def _integers(value: ir.Value | None) -> tuple[int, ...]:
    """The integers of a Constant, through any Reshape; empty if it is something else."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Constant", "Reshape"):
        return ()
    if node.op_type == "Reshape":
        return _integers(node.inputs[0])
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    return () if tensor is None else tuple(int(i) for i in tensor.numpy().reshape(-1))


def _replace(node: ir.Node, *made: ir.Node) -> None:
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
