"""Which layers MNN's converter can make integer, and with what scales.

    Conv            two spatial axes; one group, or as many as there are channels in and out
    Gemm            of a constant on the right
    MatMul          the same, of fewer weights than LARGE, which MNN's converter lays aside and then cannot quantize

A layer needs a scale on both sides. The one behind may stand behind a Relu, or a Clip that the codes hold by
saturation, or by MNN's lower bound at the zero point. Every reason why a layer stays float is told.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.graph import ops
from halfeven.graph.biases import bias_params
from halfeven.graph.clamps import clamp_bounds, idle
from halfeven.graph.encodings import Encoding, canonical
from halfeven.graph.plan import Plan, Site
from halfeven.numerics.conventions import Canonical, recoded
from halfeven.numerics.scheme import QParams

ACTIVATIONS = ("Relu", "Clip")
KINDS = ("Conv", "Gemm", "MatMul")
SPATIAL = 4
"""Rank of what a convolution over two axes reads."""

LARGE = 65536


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that becomes integer: its node, the entries of what it reads, its weight and what it hands on.

    `bias` is how its bias is quantized; None: not, or there is none.
    """

    node: str
    data: Encoding
    weight: Encoding
    output: Encoding
    channels: int
    bias: QParams | None = None

    @property
    def scales(self) -> list[float]:
        """The scales of the weight, one for each output channel."""
        found = self.weight.scales
        return found * self.channels if len(found) == 1 else found


def layers_of(draft: Draft, entries: Mapping[str, Encoding]) -> tuple[list[Layer], dict[str, str]]:
    """The layers that MNN makes integer, and why other quantized ones stay float, by node."""
    found, left = [], {}
    for node in draft.model.graph:
        if not ops.is_layer(node) or (node.name or "") in draft.plan.floats:
            continue
        layer = _layer(draft, node, entries)
        if isinstance(layer, Layer):
            found.append(layer)
        else:
            left[node.name or ""] = layer
    return found, left


def signed(entry: Encoding) -> Canonical:
    """The first scale of an entry, of int8 codes: uint8 ones are moved by -128."""
    one = canonical(entry.params)[0]
    return one if one.low < 0 else recoded(one, -(one.high + 1) // 2)


def behind(node: ir.Node) -> ir.Node | None:
    """The Relu or Clip that alone reads what a node makes."""
    value = node.outputs[0]
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type in ACTIVATIONS
    return uses[0].node if alone else None


def held(clamp: ir.Node, params: QParams) -> bool:
    """Whether codes that start no lower than zero, or as they do, are all within a clamp."""
    low, high = clamp_bounds(clamp)
    scale, zero = float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    top = (params.scheme.grid.high - zero) * scale
    return idle(clamp, params) or (low == 0 and top <= high * (1 + 1e-6))


def _layer(draft: Draft, node: ir.Node, entries: Mapping[str, Encoding]) -> Layer | str:
    """The layer, or why it stays float."""
    if reason := _unfit(node):
        return reason
    data, weight = (entries.get(v.name or "") if v is not None else None for v in node.inputs[:2])
    clamp = behind(node)
    end = node.outputs[0] if clamp is None else clamp.outputs[0]
    output = entries.get(end.name or "")
    if data is None or weight is None or output is None:
        return "without a scale on both sides"
    if not _read_so(data, [(node.name or "", 0)]):
        return "as it reads real numbers"
    if not _read_so(output, [(use.node.name or "", use.idx) for use in end.uses()]):
        return "as what it makes is read as real numbers too"
    if clamp is not None and not held(clamp, output.params):
        return f"as its codes pass the bounds of {clamp.op_type} '{clamp.name}'"
    tensor, tiling = ops.constant_of(node.inputs[1]), weight.params.scheme.tiling
    axis = ops.weight_axis(node, 1)
    assert tensor is not None
    if axis is None or tiling.axis not in (None, axis) or (tiling.tiles and tiling.axis is None):
        return "as its weights have blocks of scales"
    return Layer(node.name or "", data, weight, output, ops.dims_of(tensor)[axis], _bias_of(draft.plan, node))


def _bias_of(plan: Plan, node: ir.Node) -> QParams | None:
    bias, traits = ops.bias_of(node), ops.TRAITS[node.op_type]
    if bias is None or traits.bias is None:
        return None
    quantizer = plan.at(Site(bias.name or "", node.name or "", traits.bias))
    return None if quantizer is None else bias_params(plan, node, quantizer)


def _read_so(entry: Encoding, readers: list[tuple[str, int]]) -> bool:
    return not entry.readers or set(readers) <= set(entry.readers)


def _unfit(node: ir.Node) -> str:
    """Why MNN's converter has no integer form of a layer; empty: it has."""
    tensor = ops.constant_of(node.inputs[1]) if ops.weight_port(node) == 1 else None
    if node.op_type not in KINDS or tensor is None:
        return f"as MNN's converter makes no {node.op_type} of this kind integer"
    dims = ops.dims_of(tensor)
    if node.op_type == "Gemm":
        bias = ops.bias_of(node)
        stored = ops.constant_of(bias)
        flat = bias is None or (stored is not None and len(stored.shape) == 1)
        plain = all(ops.attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        return "" if flat and plain and not ops.attribute(node, "transA", 0) else "for its factors or its bias"
    if node.op_type == "MatMul":
        if any(use.node.op_type == "Add" for use in node.outputs[0].uses()):
            return "as MNN joins it with the Add behind it"
        return "as its converter loses weights so large" if math.prod(dims) >= LARGE else ""
    groups = ops.attribute(node, "group", 1)
    if len(dims) != SPATIAL:
        return "as it is not over two axes"
    return "as MNN takes its groups apart" if groups != 1 and (dims[1] != 1 or groups != dims[0]) else ""
