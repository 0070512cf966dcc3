"""Which BatchNormalization of a graph is trained live: behind a layer that it was folded into, or by itself.

    Conv, ConvTranspose, Gemm     the layer takes scale and shift in
    MatMul                        the scale goes into its weight, the shift into an Add behind it, which was made for
                                  that or which added a constant before the normalization
    no such layer before          a node of its own, as before activations and behind inputs

A layer or a normalization that is called twice is there twice, and its tensors are the same: one parameter, and one set
of statistics, which moves in each call. Trained as it was folded is what something else was folded with (another scale
or shift of the channels, Gemm's beta), as the graph does not have the normalization's output any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.batchnorm import by_channel
from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.names import name_everything
from halfeven.graph.prepare import inline_functions
from halfeven.graph.shapes import infer_shapes

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOMENTUM = 0.9
"""Of ONNX: the share of the running statistics that stays."""


@dataclass(frozen=True)
class Normed:
    """Initializers of a normalization and of the layer before it, by name; what there is none of is empty.

    `apart` is the constant of the folded graph that an Add behind the layer adds, `count` a tensor that holds how often
    the statistics have moved. The weight's output channels are on `axis`, in each of `groups` anew.
    """

    layer: str
    weight: str
    bias: str
    scale: str
    shift: str
    mean: str
    variance: str
    epsilon: float
    axis: int
    groups: int = 1
    momentum: float = 1 - MOMENTUM
    apart: str = ""
    count: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors to train."""
        return tuple(n for n in (self.weight, self.bias, self.scale, self.shift) if n)

    @property
    def tensors(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.names, self.mean, self.variance, *([self.count] if self.count else []))


@dataclass(frozen=True)
class Norms:
    """The normalizations of a graph: the live ones by the name of the node that runs them, the names of the others.

    `before` is the graph before any was folded.
    """

    live: dict[str, Normed]
    others: tuple[str, ...]
    before: ir.Model


def norms_of(source: ir.Model, folded: ir.Model) -> Norms:
    """The normalizations by constant statistics, in the order in which they run.

    `source` is the graph that `prepare` made `folded` of. The node is the layer that took a normalization in, or the
    normalization itself.
    """
    before = source.clone()
    inline_functions(before)
    name_everything(before)
    lift_constants(before)
    fold_constants(before)
    infer_shapes(before)
    layers = {node.name or "": node for node in folded.graph}
    found: dict[str, Normed] = {}
    nodes = [node for node in before.graph if _is_constant(node)]
    for node in nodes:
        norm = _behind(node, layers, before) or _alone(node, layers)
        if norm is not None:
            found[node.name or ""] = norm
    found = _without_other_readers(found, before, folded)
    others = tuple(node.name or "" for node in nodes if node.name not in found)
    return Norms({norm.layer: norm for norm in found.values()}, others, before)


def _is_constant(node: ir.Node) -> bool:
    """Whether a node is a normalization by statistics that are constants of the graph."""
    if node.op_type != "BatchNormalization" or node.domain or int(ops.attribute(node, "training_mode", 0)):
        return False
    return all(ops.constant_of(value) is not None for value in node.inputs[1:5])


def _alone(node: ir.Node, layers: Mapping[str, ir.Node]) -> Normed | None:
    """A normalization that the folded graph has as it was."""
    after = layers.get(node.name or "")
    if after is None or after.op_type != "BatchNormalization" or _names(after)[1:5] != _names(node)[1:5]:
        return None
    return _normed(node, node.name or "", "", "", 0)


def _behind(node: ir.Node, layers: Mapping[str, ir.Node], before: ir.Model) -> Normed | None:
    """A normalization that the folded graph has in the layer before it."""
    maker, bias = _layer_before(node)
    weight = None if maker is None else ops.constant_of(maker.inputs[1])
    if maker is None or weight is None:
        return None
    after, name = layers.get(maker.name or ""), node.outputs[0].name or ""
    apart = "" if after is None or after.op_type != "MatMul" else _added_behind(after, name)
    if after is None or (apart is None) or (not apart and after.outputs[0].name != name):
        return None
    gemm = maker.op_type == "Gemm"
    if gemm and float(ops.attribute(maker, "beta", 1.0)) != 1 and bias:
        return None
    axis = 0 if maker.op_type == "Conv" or (gemm and int(ops.attribute(maker, "transB", 0))) else 1
    groups = int(ops.attribute(maker, "group", 1)) if maker.op_type == "ConvTranspose" else 1
    norm = _normed(node, maker.name or "", maker.inputs[1].name or "", bias, axis, groups, apart)  # type: ignore[union-attr]
    now = ops.constant_of(after.inputs[1])
    if now is None or not np.allclose(now.numpy(), _folded_weight(before, norm, maker), rtol=1e-5, atol=1e-7):
        return None
    return norm


def _layer_before(node: ir.Node) -> tuple[ir.Node | None, str]:
    """The layer that only this normalization reads, and the name of its bias; no layer if that is no constant."""
    maker = _single_maker(node.inputs[0])
    if maker is not None and maker.op_type == "Add":
        for port in (0, 1):
            layer, added = _single_maker(maker.inputs[port]), maker.inputs[1 - port]
            tensor = ops.constant_of(added)
            if layer is not None and layer.op_type == "MatMul" and tensor is not None and added is not None:
                return layer, added.name or ""
    if maker is None or maker.op_type not in LAYERS or maker.domain:
        return None, ""
    bias = maker.inputs[2] if maker.op_type != "MatMul" and len(maker.inputs) > 2 else None
    if bias is not None and ((tensor := ops.constant_of(bias)) is None or len(ops.dims_of(tensor)) != 1):
        return None, ""
    return maker, "" if bias is None else bias.name or ""


def _single_maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None or len(value.uses()) != 1 else value.producer()


def _added_behind(layer: ir.Node, output: str) -> str | None:
    """The constant that an Add behind the layer adds to give `output`; None if there is no such Add."""
    for add, _ in layer.outputs[0].uses():
        if add.op_type == "Add" and add.outputs[0].name == output:
            for value in add.inputs:
                if value is not None and ops.constant_of(value) is not None and len(value.uses()) == 1:
                    return value.name
    return None


def _normed(
    node: ir.Node, layer: str, weight: str, bias: str, axis: int, groups: int = 1, apart: str | None = ""
) -> Normed:
    scale, shift, mean, variance = _names(node)[1:5]
    epsilon, stays = (float(ops.attribute(node, n, d)) for n, d in (("epsilon", 1e-5), ("momentum", MOMENTUM)))
    return Normed(layer, weight, bias, scale, shift, mean, variance, epsilon, axis, groups, 1 - stays, apart or "")


def _names(node: ir.Node) -> list[str]:
    return ["" if value is None else value.name or "" for value in node.inputs]


def _folded_weight(model: ir.Model, norm: Normed, layer: ir.Node) -> np.ndarray:
    weight, scale, variance = (
        np.asarray(model.graph.initializers[n].const_value.numpy(), np.float64)  # type: ignore[union-attr]
        for n in (norm.weight, norm.scale, norm.variance)
    )
    return np.asarray(weight * by_channel(layer, scale / np.sqrt(variance + norm.epsilon), weight.shape))


def _without_other_readers(found: dict[str, Normed], before: ir.Model, folded: ir.Model) -> dict[str, Normed]:
    """Those whose tensors no other node of the folded graph reads with other values: one name is one tensor."""
    while True:
        apart = {norm.apart for norm in found.values()}
        layers = {norm.layer for norm in found.values()}
        other = {
            value.name
            for node in folded.graph
            for port, value in enumerate(node.inputs)
            if value is not None and not (node.name in layers and port in (1, 2)) and value.name not in apart
            if _differs(value, before)
        }
        kept = {name: norm for name, norm in found.items() if not other & set(norm.tensors)}
        if len(kept) == len(found):
            return kept
        found = kept


def _differs(value: ir.Value, before: ir.Model) -> bool:
    now, then = ops.constant_of(value), before.graph.initializers.get(value.name or "")
    tensor = None if then is None else then.const_value
    return now is not None and tensor is not None and not np.array_equal(now.numpy(), tensor.numpy())
