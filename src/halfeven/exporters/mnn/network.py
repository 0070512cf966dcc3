"""The float network that MNN's converter is given: that of the draft, fitted to what MNN 3.6 does with scales.

    weights     the numbers that their codes stand for; MNN's own rounding then finds these codes
    biases      the same. A depthwise layer cuts bias / (s_x * s_w) and zero_y / (s_x * s_w / s_y) to whole numbers and
                adds them: the bias is a quarter more than a whole number that makes the sum the nearest one
    Gemm        a convolution of one pixel, between two Reshapes: MNN's converter lays large products aside unquantized
    clamps      behind a layer: MNN joins a Relu, and a Clip to 0..6. Another is dropped if the codes hold it, else made
                a Relu, whose bound MNN sets at the zero point
                behind an operator of two coded tensors: MNN joins a Relu and then computes wrong numbers. It is dropped
                if the codes hold it, else becomes Max with 0, which is computed in float
    pools       MNN pools codes where both sides have one scale, and gives a pool without scale that of its neighbours;
                its maximum of codes is wrong (3.6.1, x86-64), its average keeps the scale of what it reads. Where both
                sides have a scale of their own, that behind is made larger by the last bit, so that the pool computes
                in float: of a maximum, the same codes. Elsewhere a Max with the lowest number stands between
                without strides, for which the converter ends, they get those that ONNX means
    others      a Resize that is not nearest, Div, Max, Min, Neg, Abs and CumSum are wrong, or not exact, on codes: such
                a Max stands between
    outputs     MNN computes what the network gives in float. A layer that makes it is given such a Max too, and its
                own output the name NAME_coded

Sources: MNN source/core/Pipeline.cpp, tools/converter/source/optimizer; measured, operator by operator.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.exporters.mnn.layers import Layer, behind, signed
from halfeven.graph import ops
from halfeven.graph.clamps import clamp_bounds, idle
from halfeven.graph.edit import absorb, add_initializer, drop_unread, remove, unused, value_names
from halfeven.graph.encodings import Encoding
from halfeven.graph.weights import array_at, put_constant
from halfeven.numerics.quantize import fake_quantize

POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
PAIRS = ("Add", "Sub", "Mul")
INEXACT = ("Div", "Max", "Min", "Pow", "Neg", "Abs", "CumSum")
JOINED = (0.0, 6.0)
"""Bounds of a Clip that MNN joins with a layer."""
CARRIERS = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"}
    | {"Pad", "Resize", "Upsample", "Identity", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", *POOLS}
)
"""Through which MNN hands the scale of one side on to the other."""


@dataclass
class Fitted:
    """The network; the scales of its coded tensors, those of the plan but for the last bit of some; and new names.

    Both are by the plan's names.
    """

    model: ir.Model
    layers: Sequence[Layer]
    scales: dict[str, np.float32] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def fitted(draft: Draft, layers: Sequence[Layer]) -> Fitted:
    """The network of a draft for MNN's converter; the draft is left as it is."""
    found = Fitted(draft.model.clone(), layers)
    coded = {one.name: one for layer in layers for one in (layer.data, layer.output)}
    found.scales.update({name: np.float32(one.params.scale.ravel()[0]) for name, one in coded.items()})
    nodes = {node.name or "": node for node in found.model.graph}
    for layer in layers:
        node = nodes[layer.node]
        weight = array_at(node, 1)
        assert weight is not None
        put_constant(node, 1, fake_quantize(weight.astype(np.float32), layer.weight.params), found.model)
        _bias(node, layer, found.model)
        _clamped_layer(node, layer.output)
        if node.op_type == "Gemm":
            _as_pixel(node, layer, found)
    for node in list(found.model.graph):
        if node.op_type in PAIRS and all(v is not None and v.name in coded for v in node.inputs):
            _clamped_pair(node, coded, found.model)
    for node in list(found.model.graph):
        if node.op_type in POOLS:
            _pool(node, found)
        elif node.op_type in INEXACT or (
            node.op_type in ("Resize", "Upsample") and ops.attribute(node, "mode", "nearest") != "nearest"
        ):
            _apart(node, found)
    for i, value in enumerate(found.model.graph.outputs):
        if value.name in coded and (maker := value.producer()) is not None:
            name = value.name
            value.name = unused(f"{name}_coded", value_names(found.model))
            found.names.setdefault(name, value.name)
            found.model.graph.outputs[i] = apart = _stand(maker, value, found.model, "given")
            apart.name = name
    drop_unread(found.model.graph)
    return found


def _bias(node: ir.Node, layer: Layer, model: ir.Model) -> None:
    """Give a layer the bias with which MNN adds what the codes of the plan's stand for."""
    stored, apart = array_at(node, 2), ops.is_depthwise(node) and layer.channels > 1
    bias = np.zeros(layer.channels, np.float32) if stored is None else stored.astype(np.float32)
    if layer.bias is not None:
        bias = fake_quantize(bias, layer.bias)
    elif not apart:
        return
    if apart:
        ours, theirs = (one.params.scale.ravel()[0] for one in (layer.data, layer.output))
        weights = np.asarray(layer.scales, np.float32)
        zero = np.float32(signed(layer.output).zero_point) / (weights * (ours / theirs))
        whole = np.rint(bias / (ours * weights)) + np.rint(zero) - np.trunc(zero)
        bias = ((whole + np.copysign(0.25, whole)) * (ours * weights)).astype(np.float32)
    put_constant(node, 2, bias, model)


def _clamped_layer(node: ir.Node, output: Encoding) -> None:
    clamp = behind(node)
    if clamp is None or clamp.op_type == "Relu" or clamp_bounds(clamp) == JOINED:
        return
    if idle(clamp, output.params):
        absorb(node.outputs[0], clamp)
        return
    relu = ir.Node("", "Relu", [node.outputs[0]], num_outputs=1, name=clamp.name)
    _replace(clamp, relu)


def _as_pixel(node: ir.Node, layer: Layer, found: Fitted) -> None:
    """Make a Gemm a convolution of one pixel, its clamp behind it, between two Reshapes."""
    data, weight = node.inputs[0], array_at(node, 1)
    assert weight is not None
    weight = weight if ops.attribute(node, "transB", 0) else weight.T
    count, depth = weight.shape
    ahead = _reshaped(data, [0, depth, 1, 1], f"{node.name}_pixel", found.model)
    filters = _constant(found.model, f"{node.name}_filters", np.ascontiguousarray(weight.reshape(count, depth, 1, 1)))
    found.names[layer.weight.name] = filters.name or ""
    made = ir.Node("", "Conv", [ahead.outputs[0], filters, *node.inputs[2:]], num_outputs=1, name=node.name)
    node.prepend(ahead)
    _replace(node, made)
    clamp = behind(made)
    last = made if clamp is None else clamp
    end, name = last.outputs[0], layer.output.name
    end.name = found.names[name] = unused(f"{name}_pixel", value_names(found.model))
    back = _reshaped(end, [0, count], name, found.model)
    back.outputs[0].type, back.outputs[0].shape = end.type, end.shape
    last.append(back)
    _behind(end, back)
    made.outputs[0].shape = end.shape = None


def _reshaped(value: ir.Value | None, shape: list[int], name: str, model: ir.Model) -> ir.Node:
    sizes = _constant(model, f"{name}_shape", np.array(shape, np.int64))
    found = ir.Node("", "Reshape", [value, sizes], num_outputs=1, name=f"{name}_reshape")
    found.outputs[0].name = unused(name, value_names(model))
    return found


def _behind(value: ir.Value, node: ir.Node) -> None:
    """Let what `node` makes of a value take its place for all other readers, and as output of the network."""
    made = node.outputs[0]
    for use in [use for use in value.uses() if use.node is not node]:
        use.node.replace_input_with(use.idx, made)
    graph = node.graph
    if isinstance(graph, ir.Graph):
        graph.outputs[:] = [made if output is value else output for output in graph.outputs]


def _clamped_pair(node: ir.Node, coded: dict[str, Encoding], model: ir.Model) -> None:
    clamp = behind(node)
    if clamp is None or clamp.outputs[0].name not in coded:
        return
    if idle(clamp, coded[clamp.outputs[0].name].params):
        absorb(node.outputs[0], clamp)
    elif clamp.op_type == "Relu":
        zero = _constant(model, f"{clamp.name}_zero", np.zeros(1, np.float32))
        _replace(clamp, ir.Node("", "Max", [node.outputs[0], zero], num_outputs=1, name=clamp.name))


def _pool(node: ir.Node, found: Fitted) -> None:
    """Keep a pool from computing on codes."""
    source, made = node.inputs[0], node.outputs[0]
    assert source is not None
    if "kernel_shape" in node.attributes and "strides" not in node.attributes:
        node.attributes.add(ir.AttrInt64s("strides", [1] * len(ops.attribute(node, "kernel_shape", ()))))
    ours, theirs = found.scales.get(source.name or ""), found.scales.get(made.name or "")
    if ours is not None and theirs is not None:
        if ours == theirs:
            found.scales[made.name or ""] = np.nextafter(theirs, np.float32(np.inf))
        return
    _apart(node, found)


def _apart(node: ir.Node, found: Fitted) -> None:
    """Keep the scales of others from an operator on both sides."""
    source, made = node.inputs[0], node.outputs[0]
    if source is not None and _coded(source, found.scales, ahead=True):
        node.replace_input_with(0, _stand(node, source, found.model, "before"))
    if _coded(made, found.scales, ahead=False):
        uses, name = list(made.uses()), made.name
        made.name = unused(f"{name}_real", value_names(found.model))
        apart = _stand(node, made, found.model, "after")
        for use in uses:
            use.node.replace_input_with(use.idx, apart)
        apart.name = name


def _stand(node: ir.Node, value: ir.Value, model: ir.Model, where: str) -> ir.Value:
    """A Max with the lowest number beside a node and a value that it reads or makes; MNN computes it in float."""
    low = _constant(model, f"{node.name}_{where}_lowest", np.full(1, np.finfo(np.float32).min, np.float32))
    apart = ir.Node("", "Max", [value, low], num_outputs=1, name=f"{node.name}_{where}")
    apart.outputs[0].name = unused(f"{value.name}_{where}", value_names(model))
    apart.outputs[0].type, apart.outputs[0].shape = value.type, value.shape
    (node.prepend if where == "before" else node.append)(apart)
    return apart.outputs[0]


def _coded(value: ir.Value, coded: Container[str], *, ahead: bool) -> bool:
    """Whether a value has a scale, or one would reach it from what it is made of (`ahead`), or what is made of it."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one.name in coded:
            return True
        seen.add(one)
        nodes = [one.producer()] if ahead else [use.node for use in one.uses()]
        carriers = [node for node in nodes if node is not None and node.op_type in CARRIERS]
        found = [v for node in carriers for v in (node.inputs if ahead else node.outputs)]
        waiting += [v for v in found if v is not None and v not in seen]
    return False


def _replace(old: ir.Node, new: ir.Node) -> None:
    """Let `new`, in no graph yet, make what `old` made, under its name."""
    made, last = new.outputs[0], old.outputs[0]
    made.type, made.shape, name = last.type, last.shape, last.name
    old.append(new)
    last.replace_all_uses_with(made, replace_graph_outputs=True)
    remove(old)
    made.name = name


def _constant(model: ir.Model, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    free = unused(name, value_names(model))
    return add_initializer(model.graph, free, ir.tensor(array, name=free))
