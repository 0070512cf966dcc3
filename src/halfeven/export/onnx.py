"""ONNX with QuantizeLinear and DequantizeLinear (QDQ): the plan, written into the graph.

    activation    value -> Q -> DQ -> readers         one scale and zero point for each group, shared by its sites
    weight        int8 initializer -> DQ -> layer     per-channel with the axis of the layer
    bias          int32 initializer -> DQ -> layer    scale = input scale * weight scale, zero point 0
    table         Gather of int8 codes -> DQ          the lookup moves codes; only what was looked up is dequantized
    activation    Relu and Clip whose bounds the codes cannot pass are dropped: saturation does their work

The integers are those of `numerics.quantize`; nothing else about the float graph changes. The order of nodes and of
initializers follows the graph, so equal drafts give equal bytes.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.graph import ops
from halfeven.graph.clamps import CLAMPS, idle
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import QParams


def to_qdq(draft: Draft) -> ir.Model:
    """The quantized model as ONNX QDQ; the draft is left as it is.

    Raises:
        UnsupportedByTarget: a group has no parameters (the draft was not calibrated).
    """
    missing = [str(s) for s, g in draft.plan.sites.items() if _unset(draft.plan.groups[g])]
    if missing:
        raise UnsupportedByTarget(f"{missing[0]} has no scale: run Calibrate before the export.")
    model = draft.model.clone()
    _Writer(model, draft.plan, draft.target.clamps_in_range).write()
    return model


def _unset(quantizer: Quantizer) -> bool:
    return quantizer.params is None and quantizer.role != "bias"


@dataclass
class _Writer:
    """Edits one clone."""

    model: ir.Model
    plan: Plan
    clamps: bool
    nodes: dict[str, ir.Node] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    shared: dict[tuple[str, int], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def write(self) -> None:
        """Weights and biases first, as they read parameters by the float graph's names; then the wires."""
        graph = self.model.graph
        self.nodes = {node.name or "": node for node in graph}
        self.values = {v.name or "": v for v in (*graph.inputs, *graph.initializers.values())}
        self.values.update({v.name or "": v for node in graph for v in node.outputs})
        used: set[ir.Value] = set()
        biases = {
            site: bias_params(self.plan, self.nodes[site.consumer], self.plan.groups[group])
            for site, group in self.plan.sites.items()
            if self.plan.groups[group].role == "bias"
        }
        for site in self._in_order():
            quantizer = self.plan.groups[self.plan.sites[site]]
            if quantizer.role != "activation":
                used.add(self._constant(site, quantizer, biases.get(site)))
        for value in [*graph.inputs, *(v for node in list(graph) for v in node.outputs)]:
            self._activation(value)
        for value in used:
            if not value.uses() and not value.is_graph_output() and value.name in graph.initializers:
                del graph.initializers[value.name]

    def _in_order(self) -> list[Site]:
        order = {name: i for i, name in enumerate(self.nodes)}
        return sorted(self.plan.sites, key=lambda s: (order.get(s.consumer, -1), s.port, s.value))

    def _initializer(self, name: str, array: npt.NDArray[np.generic], bits: int = 8) -> ir.Value:
        dtype = {4: {"i": ir.DataType.INT4, "u": ir.DataType.UINT4}}.get(bits, {}).get(array.dtype.kind)
        tensor = ir.tensor(array, name=name) if dtype is None else ir.tensor(array, dtype=dtype, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def _params(self, base: str, group: int, params: QParams) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point initializers of a group, named after its first value; scalars when per-tensor."""
        key = ("", group)
        if key not in self.shared:
            shape = () if params.scale.size == 1 and not params.scheme.tiling.tiles else (-1,)
            scale = self._initializer(f"{base}_scale", params.scale.reshape(shape))
            zero = params.zero_point.reshape(shape).astype(params.scheme.grid.dtype)
            self.shared[key] = (scale, self._initializer(f"{base}_zero_point", zero, params.scheme.grid.bits))
        return self.shared[key]

    # ------------------------------------------------------------------------------------------- constants

    def _constant(self, site: Site, quantizer: Quantizer, bias: QParams | None) -> ir.Value:
        """Replace one constant operand by integers and a DequantizeLinear."""
        node, value = self.nodes[site.consumer], self.values[site.value]
        tensor = value.const_value
        assert tensor is not None
        x = tensor.numpy().astype(np.float32)
        group = self.plan.sites[site]
        if bias is not None:
            params = bias
            name = f"{site.value}_{node.name}" if len(value.uses()) > 1 else site.value
        else:
            assert quantizer.params is not None
            params, name = quantizer.params, site.value
        if ("codes", group) not in self.shared:
            codes = self._initializer(f"{name}_quantized", quantize(x, params), params.scheme.grid.bits)
            self.shared["codes", group] = (codes, codes)
        codes = self.shared["codes", group][0]
        scale, zero = self._params(name, group, params)
        if node.op_type == "Gather" and site.port == 0:
            self._table(node, codes, scale, zero)
            return value
        if ("dq", group) not in self.shared:
            axis = params.scheme.tiling.axis
            out = self._dequantize(codes, scale, zero, f"{name}_dequantized", node, axis)
            self.shared["dq", group] = (out, out)
        node.replace_input_with(site.port, self.shared["dq", group][0])
        return value

    def _dequantize(self, codes: ir.Value, scale: ir.Value, zero: ir.Value, name: str, before: ir.Node, axis: int | None) -> ir.Value:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        dq = ir.Node("", "DequantizeLinear", [codes, scale, zero], attributes, num_outputs=1, name=f"{name}_DequantizeLinear")
        dq.outputs[0].name = name
        dq.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        dq.outputs[0].shape = codes.shape
        before.prepend(dq)
        return dq.outputs[0]

    def _table(self, node: ir.Node, codes: ir.Value, scale: ir.Value, zero: ir.Value) -> None:
        """Look up codes, then make them real: by one scale, or each row by its own, looked up too."""
        out, name = node.outputs[0], node.name or ""
        inner = ir.Node("", "Gather", [codes, *node.inputs[1:]], list(node.attributes.values()), num_outputs=1, name=f"{name}_codes")
        inner.outputs[0].name = f"{out.name}_codes"
        inner.outputs[0].type = ir.TensorType(codes.dtype)  # type: ignore[arg-type]
        node.prepend(inner)
        if scale.shape is not None and len(scale.shape) == 0:
            tail = [ir.Node("", "DequantizeLinear", [inner.outputs[0], scale, zero], num_outputs=1, name=f"{name}_DequantizeLinear")]
        else:
            column = self._initializer(f"{scale.name}_rows", scale.const_value.numpy().reshape(-1, *[1] * (len(codes.shape) - 1)))  # type: ignore[union-attr]
            rows = ir.Node("", "Gather", [column, *node.inputs[1:]], [ir.AttrInt64("axis", 0)], num_outputs=1, name=f"{name}_scales")
            cast = ir.Node("", "Cast", [inner.outputs[0]], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], num_outputs=1, name=f"{name}_cast")
            tail = [rows, cast, ir.Node("", "Mul", [cast.outputs[0], rows.outputs[0]], num_outputs=1, name=f"{name}_dequantize")]
            rows.outputs[0].name, cast.outputs[0].name = f"{out.name}_scales", f"{out.name}_cast"
            for unused in (scale, zero):
                self.model.graph.initializers.pop(unused.name or "", None)
        node.prepend(tail)
        _take_over(self.model, out, tail[-1].outputs[0])
        self.model.graph.remove(node, safe=True)

    # ----------------------------------------------------------------------------------------- activations

    def _activation(self, value: ir.Value) -> None:
        """Insert Q and DQ behind a value: for every reader, or for those that have a site of their own."""
        name = value.name or ""
        everyone = self.plan.sites.get(Site(name))
        single = [(use.node, use.idx) for use in value.uses() if Site(name, use.node.name or "", use.idx) in self.plan.sites]
        if everyone is None and not single:
            return
        group = everyone if everyone is not None else self.plan.sites[Site(name, single[0][0].name or "", single[0][1])]
        params = self.plan.groups[group].params
        assert params is not None
        clamps = self._idle_clamps(value, params) if everyone is not None else []
        source = clamps[-1].inputs[0] if clamps else value
        assert source is not None
        scale, zero = self._params(name, group, params)
        q = ir.Node("", "QuantizeLinear", [source, scale, zero], num_outputs=1, name=f"{name}_QuantizeLinear")
        dq = ir.Node("", "DequantizeLinear", [q.outputs[0], scale, zero], num_outputs=1, name=f"{name}_DequantizeLinear")
        q.outputs[0].name, q.outputs[0].type, q.outputs[0].shape = f"{name}_quantized", ir.TensorType(zero.dtype), value.shape  # type: ignore[arg-type]
        new = dq.outputs[0]
        new.name, new.type, new.shape = f"{name}_dequantized", value.type, value.shape
        readers = [(use.node, use.idx) for use in value.uses() if use.node is not q] if everyone is not None else single
        for node, port in readers:
            node.replace_input_with(port, new)
        self._insert([q, dq], source)
        if everyone is not None and value.is_graph_output():
            _swap_output(self.model, value, new)
        for clamp in clamps:
            self.model.graph.remove(clamp, safe=True)

    def _insert(self, nodes: list[ir.Node], value: ir.Value) -> None:
        producer = value.producer()
        if producer is not None:
            producer.append(nodes)
        else:
            self.model.graph.insert_before(self.model.graph[0], nodes)

    def _idle_clamps(self, value: ir.Value, params: QParams) -> list[ir.Node]:
        """The clamps between a quantized node and `value` that cannot change what the codes express, last first."""
        found: list[ir.Node] = []
        node = value.producer()
        while self.clamps and node is not None and node.op_type in CLAMPS and idle(node, params):
            before = node.inputs[0]
            maker = before.producer() if before is not None else None
            if before is None or maker is None or len(before.uses()) != 1 or before.is_graph_output():
                break
            found.append(node)
            if maker.op_type not in CLAMPS and any(site.consumer == maker.name for site in self.plan.sites):
                return found
            node = maker
        return []


def bias_params(plan: Plan, node: ir.Node, quantizer: Quantizer) -> QParams:
    """Parameters of a bias: scale = f32(input scale * weight scale), shape (channels,) or (1,)."""
    traits = ops.TRAITS[node.op_type]
    data = plan.seen_by(node.inputs[traits.data].name or "", node.name or "", traits.data)  # type: ignore[union-attr]
    weight = plan.seen_by(node.inputs[traits.weight].name or "", node.name or "", traits.weight)  # type: ignore[union-attr]
    if data is None or weight is None or data.params is None or weight.params is None:
        raise UnsupportedByTarget(f"{node.op_type} '{node.name}': its bias needs the scales of input and weight, which the plan lacks.")
    scale = (data.params.scale.ravel() * weight.params.scale.ravel()).astype(np.float32)
    return QParams(quantizer.scheme, scale, np.zeros(scale.shape, np.int32))


def _take_over(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old`, under its name, for readers, subgraphs and as graph output."""
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}_replaced"
    new.name = name
    new.type, new.shape = new.type or old.type, new.shape or old.shape


def _swap_output(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Give `new` the graph output `old`, with its name; `old` goes on inside under another."""
    name = old.name
    for i, output in enumerate(model.graph.outputs):
        if output is old:
            model.graph.outputs[i] = new
    old.name, new.name = f"{name}_float", name

