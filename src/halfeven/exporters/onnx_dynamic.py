"""Dynamic quantization in ONNX: activations get their scale in each run, from what they hold then.

    x -> DynamicQuantizeLinear -> codes, xs, xz      uint8; xs = (max - min) / 255, both widened to hold 0

    MatMul, Gemm   MatMulInteger(codes, w, xz) -> Cast -> Mul(., xs * ws) [-> Add bias]      ws per-tensor or by column
    Conv           ConvInteger(codes, w, xz)   -> Cast -> Mul(., xs * ws) [-> Add bias]      ws by output channel
    LSTM           com.microsoft DynamicQuantizeLSTM: weights as (directions, inputs, 4 hidden), int8; x and h quantized
                   inside, at each step of time

A value that several layers read is quantized once. Weights are symmetric int8. ONNX Runtime makes one kernel of
DynamicQuantizeLinear, MatMulInteger and what follows (DynamicQuantizeMatMul) by itself. There is no such operator for
GRU and RNN.

Sources: ONNX operators DynamicQuantizeLinear, MatMulInteger, ConvInteger; ONNX Runtime, docs/ContribOperators.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from halfeven.exporters.onnx_codes import codes_tensor
from halfeven.graph import ops
from halfeven.graph.edit import (
    add_initializer,
    drop_unread,
    node_named_after_its_output,
    take_over,
    unused,
    value_names,
)
from halfeven.graph.plan import DYNAMIC, Plan, Site
from halfeven.numerics.scheme import QParams

CONTRIB = "com.microsoft"


def split(plan: Plan) -> tuple[Plan, dict[Site, int]]:
    """What is quantized with constant scales, and the weights of layers whose activation is quantized in each run."""
    moving = {s for s, g in plan.sites.items() if plan.groups[g].role == "activation" and _moves(plan, g)}
    if not moving:
        return plan, {}
    layers = {site.consumer for site in moving}
    weights = {s: g for s, g in plan.sites.items() if s.consumer in layers and plan.groups[g].role == "weight"}
    return replace(plan, sites={s: g for s, g in plan.sites.items() if s not in moving and s not in weights}), weights


def _moves(plan: Plan, group: int) -> bool:
    return plan.groups[group].method == DYNAMIC


def put_dynamic(model: ir.Model, plan: Plan, weights: Mapping[Site, int]) -> None:
    """Rewrite, in place, the layers that read `weights`, with codes by the parameters of their groups."""
    writer = _Dynamic(model, plan)
    layers: dict[str, dict[int, int]] = {}
    for site, group in weights.items():
        layers.setdefault(site.consumer, {})[site.port] = group
    for node in list(model.graph):
        if node.name in layers:
            writer.put(node, layers[node.name or ""])
    drop_unread(model.graph)
    if any(node.domain == CONTRIB for node in model.graph):
        model.opset_imports.setdefault(CONTRIB, 1)


class _Dynamic:
    """Edits one model."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self.model, self.plan, self.names = model, plan, value_names(model)
        self.quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self.constants: dict[tuple[int, bool], ir.Value] = {}

    def put(self, node: ir.Node, groups: Mapping[int, int]) -> None:
        """Rewrite one layer; `groups` are those of its weights, by port."""
        if node.op_type == "LSTM":
            self._lstm(node, groups)
            return
        group, out = groups[1], node.outputs[0]
        params = self.plan.groups[group].params
        assert params is not None
        codes, scale, zero = self._quantize(node)
        flipped = node.op_type == "Gemm" and bool(ops.attribute(node, "transB", 0))
        weight = self._codes(node, 1, group, flipped=flipped)
        kept = list(node.attributes.values()) if node.op_type == "Conv" else []
        op = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
        real = ir.DataType.FLOAT
        made = [self._node(op, [codes, weight, zero], f"{out.name}_sums", ir.DataType.INT32, kept)]
        to = [ir.AttrInt64("to", int(real))]
        made.append(self._node("Cast", made[0].outputs, f"{out.name}_counts", real, to))
        product = self._node("Mul", [scale, self._scale(node, params)], f"{out.name}_step", real)
        made.append(product)
        made.append(self._node("Mul", [made[1].outputs[0], product.outputs[0]], f"{out.name}_real", real))
        bias = ops.bias_of(node)
        if bias is not None:
            value = self._by_channel(node, bias)
            made.append(self._node("Add", [made[-1].outputs[0], value], f"{out.name}_biased", real))
        node.prepend(made)
        self._replace(node, made[-1].outputs[0])

    def _lstm(self, node: ir.Node, groups: Mapping[int, int]) -> None:
        """DynamicQuantizeLSTM, whose weights lie the other way round and whose scales have no third axis."""
        inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
        more: list[ir.Value] = []
        for port in (1, 2):
            params = self.plan.groups[groups[port]].params
            assert params is not None
            inputs[port] = self._codes(node, port, groups[port], flipped=True)
            tensor = ops.constant_of(node.inputs[port])
            assert tensor is not None
            shape = ops.dims_of(tensor)[:2]
            scale = np.broadcast_to(params.scale.reshape(params.scale.shape[:2]), shape)
            name = f"{node.name}_{'WR'[port - 1]}"
            more.append(self._constant(f"{name}_scale", np.ascontiguousarray(scale)))
            more.append(self._constant(f"{name}_zero_point", np.zeros(shape, np.int8)))
        kept = [a for name, a in node.attributes.items() if name != "layout"]
        made = ir.Node(
            CONTRIB, "DynamicQuantizeLSTM", [*inputs, *more], kept, num_outputs=len(node.outputs), name=node.name
        )
        node.append(made)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            take_over(old, new)
        self.model.graph.remove(node, safe=True)

    # --------------------------------------------------------------------------------------------- pieces

    def _quantize(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Codes, scale and zero point of what a layer reads."""
        value = node.inputs[0]
        assert value is not None
        if value not in self.quantized:
            name = unused(f"{value.name}_dynamic", self.names)
            made = ir.Node("", "DynamicQuantizeLinear", [value], num_outputs=3, name=name)
            kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            for out, ending, kind in zip(made.outputs, ("codes", "scale", "zero_point"), kinds, strict=True):
                out.name, out.type = unused(f"{value.name}_{ending}", self.names), ir.TensorType(kind)
            made.outputs[0].shape = value.shape
            made.outputs[1].shape = made.outputs[2].shape = ir.Shape([])
            producer = value.producer()
            if producer is not None:
                producer.append(made)
            else:
                self.model.graph.insert_before(self.model.graph[0], made)
            self.quantized[value] = tuple(made.outputs)
        return self.quantized[value]

    def _codes(self, node: ir.Node, port: int, group: int, *, flipped: bool) -> ir.Value:
        """The codes of a weight, its last two axes exchanged if `flipped`."""
        if (group, flipped) not in self.constants:
            value, params = node.inputs[port], self.plan.groups[group].params
            tensor = ops.constant_of(value)
            assert value is not None
            assert tensor is not None
            assert params is not None
            name = unused(f"{value.name}_quantized", self.names)
            codes = codes_tensor(tensor, params, name)
            if flipped:
                codes = ir.tensor(np.ascontiguousarray(np.swapaxes(codes.numpy(), -1, -2)), name=name)
            self.constants[group, flipped] = add_initializer(self.model.graph, name, codes)
        return self.constants[group, flipped]

    def _scale(self, node: ir.Node, params: QParams) -> ir.Value:
        """The weight's scale, so that it broadcasts against the sums."""
        scale = params.scale.reshape(-1)
        if node.op_type == "Conv" and scale.size > 1:
            return self._constant(f"{node.name}_scale", scale.reshape(-1, *[1] * (params.scale.ndim - 2)))
        return self._constant(f"{node.name}_scale", scale if scale.size > 1 else scale.reshape(()))

    def _by_channel(self, node: ir.Node, bias: ir.Value) -> ir.Value:
        """A bias, so that it broadcasts against the output."""
        weight = ops.constant_of(node.inputs[1])
        assert weight is not None
        if node.op_type != "Conv":
            return bias
        tensor = ops.constant_of(bias)
        assert tensor is not None
        return self._constant(f"{bias.name}_column", tensor.numpy().reshape(-1, *[1] * (len(weight.shape) - 2)))

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        free = unused(name, self.names)
        return add_initializer(self.model.graph, free, ir.tensor(array, name=free))

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        dtype: ir.DataType,
        attributes: Sequence[ir.Attr] = (),
    ) -> ir.Node:
        return node_named_after_its_output(op, inputs, output, dtype, self.names, attributes)

    def _replace(self, node: ir.Node, new: ir.Value) -> None:
        take_over(node.outputs[0], new)
        self.model.graph.remove(node, safe=True)
