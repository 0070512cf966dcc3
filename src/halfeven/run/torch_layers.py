"""Layers again, of what the trace of a Keras model makes of them.

    traced                                                        here
    Conv, Transpose, Add of one number per channel                Conv with that bias, Transpose
    MatMul(x, w), Add of one number per column; x of rank 2       Gemm(x, w, b)
    (x - mean) * (1 / sqrt(variance + epsilon) * gamma) + beta    BatchNormalization(x, gamma, beta, mean, variance)
    Pad by zeros, Transpose, Conv                                 Transpose, Conv with pads
    ConvTranspose, Slice of its first and last places             ConvTranspose with pads
    Unsqueeze behind an axis, Expand, Reshape                     Resize of that axis, nearest; of two axes at once
    Transposes around each                                        gone where they can be (`torch_layout`)

The left column computes the same, but as pieces: a bias would be quantized as an operand, and a normalization could
neither be folded with checks nor trained. Constants are folded first, those not made of weights: a weight stays as the
model holds it, so that training can give it back. What is written otherwise stays as it is.
"""

import numpy as np
import onnx_ir as ir

from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.edit import add_initializer, constant, remove, unused, value_names
from halfeven.graph.prune import remove_dead
from halfeven.graph.shapes import infer_shapes
from halfeven.run.torch_layout import channels_first
from halfeven.run.torch_nodes import (
    first_input,
    maker_of,
    only_reader,
    perm_of,
    to_first,
    to_last,
    transposed,
)
from halfeven.run.torch_operators import substitute
from halfeven.run.torch_windows import resize, unpad, unslice

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def as_layers(model: ir.Model) -> None:
    """Rewrite, in place, a model whose values have names and shapes."""
    _settle(model)
    infer_shapes(model)
    taken = value_names(model)
    for node in tuple(model.graph):
        if node.op_type == "Sub":
            _normalization(node, taken)
        elif node.op_type == "Slice":
            unslice(node)
        elif node.op_type == "Reshape":
            resize(node)
    for node in tuple(model.graph):
        if node.op_type == "Add" and not _dense(node):
            _bias(node)
    remove_dead(model)
    lift_constants(model)
    channels_first(model.graph)
    remove_dead(model)
    lift_constants(model)
    for node in tuple(model.graph):
        if node.op_type == "Conv":
            unpad(node)
    remove_dead(model)


def _settle(model: ir.Model) -> None:
    """Fold constants, but nothing that is made of weights."""
    lift_constants(model)
    inputs = tuple(model.graph.inputs)
    model.graph.inputs.extend(v for v in model.graph.initializers.values() if v.dtype in FLOATS and _size(v) > 1)
    fold_constants(model)
    model.graph.inputs.clear()
    model.graph.inputs.extend(inputs)
    remove_dead(model)


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(np.prod(value.const_value.shape.numpy()))


def _normalization(start: ir.Node, taken: set[str]) -> None:
    x, mean = start.inputs
    product = only_reader(start, "Mul")
    end = only_reader(product, "Add")
    if x is None or x.shape is None or mean is None or product is None or end is None or start.graph is None:
        return
    found = _scaling(_other(product, start.outputs[0]))
    beta = _other(end, product.outputs[0])
    if found is None or beta is None:
        return
    variance, epsilon, gamma = found
    rank = x.shape.rank()
    vectors = [_per_channel(v, x, start.graph, taken) for v in (gamma, beta, mean, variance)]
    if any(found is None for found in vectors) or len(axes := {found[1] for found in vectors if found}) != 1:
        return
    (axis,) = axes
    inputs = [vector for vector, _ in filter(None, vectors)]
    if axis == 1:
        substitute(end, ir.node("BatchNormalization", [x, *inputs], {"epsilon": epsilon}))
    elif axis == rank - 1:
        first = transposed(x, to_first(rank))
        norm = ir.node("BatchNormalization", [first.outputs[0], *inputs], {"epsilon": epsilon})
        norm.outputs[0].shape, norm.outputs[0].type = first.outputs[0].shape, x.type
        substitute(end, first, norm, transposed(norm.outputs[0], to_last(rank)))


def _scaling(value: ir.Value | None) -> tuple[ir.Value, float, ir.Value] | None:
    """Variance, epsilon and gamma of 1 / sqrt(variance + epsilon) * gamma."""
    product = maker_of(value, "Mul")
    for port in (0, 1) if product is not None else ():
        assert product is not None
        root = maker_of(first_input(maker_of(product.inputs[port], "Reciprocal")), "Sqrt")
        total = maker_of(first_input(root), "Add")
        gamma = product.inputs[1 - port]
        for side in (0, 1) if total is not None and gamma is not None else ():
            assert total is not None
            variance, epsilon = total.inputs[1 - side], constant(total.inputs[side])
            if variance is not None and gamma is not None and epsilon is not None and epsilon.size == 1:
                return variance, float(epsilon.numpy().reshape(())), gamma
    return None


def _dense(node: ir.Node) -> bool:
    for port in (0, 1):
        product, bias = maker_of(node.inputs[port], "MatMul"), node.inputs[1 - port]
        if product is None or bias is None or only_reader(product, "Add") is not node:
            continue
        x, weight = product.inputs
        if x is None or weight is None or not (weight.is_initializer() and bias.is_initializer()):
            continue
        if (_rank(x), _rank(weight)) == (2, 2) and bias.shape == ir.Shape(tuple(weight.shape or ())[1:]):
            substitute(node, ir.node("Gemm", [x, weight, bias]))
            return True
    return False


def _bias(node: ir.Node) -> None:
    for port in (0, 1):
        value, added = node.inputs[port], node.inputs[1 - port]
        conv, axis = _layer_before(value)
        if conv is None or value is None or added is None or node.graph is None or not _is_unbiased(conv):
            continue
        vector, at = _per_channel(added, value, node.graph, set()) or (None, -1)
        if vector is None or at != axis or len(value.uses()) != 1 or value.is_graph_output():
            continue
        conv.resize_inputs(3)
        conv.replace_input_with(2, vector)
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
        remove(node)
        return


def _layer_before(value: ir.Value | None) -> tuple[ir.Node | None, int]:
    """The convolution that makes `value`, through a Transpose for it alone, and the axis of its channels."""
    turned = maker_of(value, "Transpose")
    inner = value if turned is None else turned.inputs[0]
    conv = maker_of(inner, "Conv") or maker_of(inner, "ConvTranspose")
    if turned is None:
        return conv, 1
    alone = conv is not None and only_reader(conv, "Transpose") is turned
    return conv if alone else None, perm_of(turned).index(1)


def _is_unbiased(conv: ir.Node) -> bool:
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    tensor = constant(bias)
    return bias is None or (tensor is not None and not tensor.numpy().any())


def _per_channel(value: ir.Value, x: ir.Value, graph: ir.Graph, taken: set[str]) -> tuple[ir.Value, int] | None:
    """The numbers of `value`, one for each place on an axis of `x`, as an initializer of rank 1; and that axis."""
    if value.shape is None or x.shape is None or value.shape.rank() > x.shape.rank():
        return None
    rank = x.shape.rank()
    sizes = [1] * (rank - value.shape.rank()) + list(value.shape)
    axes = [axis for axis, size in enumerate(sizes) if size != 1]
    if not axes:
        axes = [axis for axis in (rank - 1, 1) if x.shape[axis] == 1][:1]
    if len(axes) != 1 or sizes[axes[0]] != x.shape[axes[0]]:
        return None
    source = value
    while (maker := maker_of(source, "Reshape")) is not None and maker.inputs[0] is not None:
        source = maker.inputs[0]
    if constant(source) is None:
        return None
    if _rank(source) != 1:
        if not taken:
            return None
        tensor = ir.tensor(constant(source).numpy().reshape(-1), name=unused(f"{source.name}_flat", taken))  # type: ignore[union-attr]
        source = add_initializer(graph, str(tensor.name), tensor)
    return source, axes[0]


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    first, second = node.inputs
    return second if first is value else first


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else value.shape.rank()
