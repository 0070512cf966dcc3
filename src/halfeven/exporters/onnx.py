"""ONNX with QuantizeLinear and DequantizeLinear (QDQ): the plan, written into the graph.

    activation    value -> Q -> DQ -> readers         one scale and zero point for each group, shared by its sites
    weight        int8 initializer -> DQ -> layer     per-channel with the axis of the layer
    bias          int32 initializer -> DQ -> layer    scale = input scale * weight scale, zero point 0
    table         Gather of int8 codes -> real        the lookup moves codes; only what was looked up is made real
    clamp         Relu, Clip and Min whose bounds the codes cannot pass are dropped: saturation does their work
    dynamic       a layer whose activation is quantized anew in each run becomes integer operators (onnx_dynamic)

The integers are those of `numerics.quantize`, computed when the file is written, tensor by tensor, so that a model of
any size needs little memory. Nothing else about the float graph changes. The order of nodes and of initializers follows
the graph, so equal drafts give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.formats import in_stored_codes
from halfeven.exporters.onnx_codes import codes_tensor, coverage, in_opset, scale_and_zero
from halfeven.exporters.onnx_dynamic import put_dynamic, split
from halfeven.graph import ops
from halfeven.graph.biases import bias_params
from halfeven.graph.clamps import CLAMPS, idle
from halfeven.graph.edit import (
    add_initializer,
    drop_unread,
    node_named_after_its_output,
    take_over,
    unused,
    value_names,
)
from halfeven.graph.plan import Plan, Site
from halfeven.graph.saving import save, spare
from halfeven.numerics.scheme import QParams
from halfeven.run.specs import external_files
from halfeven.targets.check import refuse


def to_qdq(draft: Draft) -> ir.Model:
    """The quantized model as ONNX QDQ; the draft is left as it is.

    Raises:
        UnsupportedByTarget: a group has no parameters (it was not calibrated), or the target cannot run the plan.
    """
    refuse(draft.target, draft.model, draft.plan)
    draft = in_stored_codes(draft)
    plan, dynamic = split(draft.plan)
    for site, group in (*plan.sites.items(), *dynamic.items()):
        if draft.plan.groups[group].params is None and draft.plan.groups[group].role != "bias":
            raise UnsupportedByTarget(f"{site} has no scale: run Calibrate before the export.")
    model = in_opset(draft.model, [draft.plan.groups[group].scheme for group in plan.sites.values()]).clone()
    _Writer(model, plan, draft.target.clamps_in_range).write()
    put_dynamic(model, draft.plan, dynamic)
    return model


def write_qdq(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write the quantized model as ONNX QDQ; the file's data never take the place of those its float model reads."""
    spare(path, external_files(draft.model))
    save(to_qdq(draft), path)
    return ()


@dataclass
class _Writer:
    """Edits one clone."""

    model: ir.Model
    plan: Plan
    clamps: bool
    nodes: dict[str, ir.Node] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    params: dict[int, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    codes: dict[int, ir.Value] = field(default_factory=dict)
    reals: dict[int, ir.Value] = field(default_factory=dict)

    def write(self) -> None:
        """Constants first, as they read parameters by the float graph's names; then the wires."""
        graph = self.model.graph
        self.nodes = {node.name or "": node for node in graph}
        self.values = {v.name or "": v for v in (*graph.inputs, *graph.initializers.values())}
        self.values.update({v.name or "": v for node in graph for v in node.outputs})
        self.names = value_names(self.model)
        order = {name: i for i, name in enumerate(self.nodes)}
        constants = [s for s, g in self.plan.sites.items() if self.plan.groups[g].role != "activation"]
        constants.sort(key=lambda s: (order.get(s.consumer, -1), s.port, s.value))
        found = {site: self._constant_params(site) for site in constants}
        for site in constants:
            self._constant(site, found[site])
        for value in [*graph.inputs, *(v for node in list(graph) for v in node.outputs)]:
            self._wire(value)
        for node in graph:
            if node.op_type == "AveragePool" and set(ops.attribute(node, "dilations", [])) == {1}:
                del node.attributes["dilations"]  # the default; the runtime's integer kernel refuses the attribute
            if node.op_type == "Resize" and "axes" in node.attributes:
                self._name_all_axes(node)
        drop_unread(graph)

    def _name_all_axes(self, node: ir.Node) -> None:
        """Let a Resize state the scale or size of every axis: ONNX Runtime, moving codes through it, loses `axes`."""
        shape, port = node.inputs[0].shape if node.inputs[0] is not None else None, len(node.inputs) - 1
        given = ops.constant_of(node.inputs[port])
        axes = [int(a) for a in ops.attribute(node, "axes", [])]
        if (
            shape is None
            or given is None
            or port < 2
            or ops.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        ):
            return
        whole = [d if isinstance(d, int) else 0 for d in shape] if port == 3 else [1.0] * len(shape)
        for axis, value in zip(axes, given.numpy().tolist(), strict=True):
            whole[axis] = value
        if not all(whole):
            return
        name = unused(f"{node.name}_all_axes", self.names)
        array = np.array(whole, np.int64 if port == 3 else np.float32)
        node.replace_input_with(port, self._initializer(name, ir.tensor(array, name=name)))
        del node.attributes["axes"]

    # --------------------------------------------------------------------------------------------- pieces

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        return add_initializer(self.model.graph, name, tensor)

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        dtype: ir.DataType,
        attributes: Sequence[ir.Attr] = (),
    ) -> ir.Node:
        """A node named after its output; the shape is left open."""
        return node_named_after_its_output(op, inputs, output, dtype, self.names, attributes)

    def _scale_and_zero(self, base: str, group: int, params: QParams) -> tuple[ir.Value, ir.Value]:
        """Initializers of a group, named after the first of its sites."""
        if group not in self.params:
            array, codes = scale_and_zero(params)
            name, codes.name = unused(f"{base}_scale", self.names), unused(f"{base}_zero_point", self.names)
            scale = self._initializer(name, ir.tensor(array, name=name))
            self.params[group] = scale, self._initializer(codes.name, codes)
        return self.params[group]

    # ------------------------------------------------------------------------------------------ constants

    def _constant_params(self, site: Site) -> QParams:
        quantizer = self.plan.groups[self.plan.sites[site]]
        if quantizer.role == "bias":
            return bias_params(self.plan, self.nodes[site.consumer], quantizer)
        assert quantizer.params is not None
        return quantizer.params

    def _constant(self, site: Site, params: QParams) -> None:
        """Replace one constant operand by integers and a DequantizeLinear."""
        node, value, group = self.nodes[site.consumer], self.values[site.value], self.plan.sites[site]
        tensor = value.const_value
        assert tensor is not None
        if group not in self.codes:
            name = unused(f"{site.value}_quantized", self.names)
            self.codes[group] = self._initializer(name, codes_tensor(tensor, params, name))
        scale, zero = self._scale_and_zero(site.value, group, params)
        if node.op_type == "Gather":
            self._table(node, self.codes[group], scale, zero)
            return
        if group not in self.reals:
            inputs, attributes = [self.codes[group], scale, zero], coverage(params.scheme.tiling)
            dq = self._node("DequantizeLinear", inputs, f"{site.value}_dequantized", ir.DataType.FLOAT, attributes)
            dq.outputs[0].shape = self.codes[group].shape
            node.prepend(dq)
            self.reals[group] = dq.outputs[0]
        node.replace_input_with(site.port, self.reals[group])

    def _table(self, node: ir.Node, codes: ir.Value, scale: ir.Value, zero: ir.Value) -> None:
        """Look up codes, then make them real: by one scale, or each row by its own, looked up too."""
        out, real = node.outputs[0], ir.DataType.FLOAT
        indices, base = node.inputs[1], node.outputs[0].name or ""
        assert codes.dtype is not None
        attributes = list(node.attributes.values())
        rows = self._node("Gather", [codes, indices], f"{base}_codes", codes.dtype, attributes)
        if codes.shape is not None and scale.shape is not None and len(scale.shape) == 1:
            per_row = scale.const_value
            assert per_row is not None
            name = unused(f"{scale.name}_rows", self.names)
            column = per_row.numpy().reshape(-1, *[1] * (len(codes.shape) - 1))
            scales = self._node(
                "Gather",
                [self._initializer(name, ir.tensor(column, name=name)), indices],
                f"{base}_scales",
                real,
                attributes,
            )
            cast = self._node("Cast", rows.outputs, f"{base}_cast", real, [ir.AttrInt64("to", int(real))])
            last = self._node("Mul", [cast.outputs[0], scales.outputs[0]], f"{base}_dequantized", real)
            made = [rows, scales, cast, last]
        else:
            last = self._node("DequantizeLinear", [rows.outputs[0], scale, zero], f"{base}_dequantized", real)
            made = [rows, last]
        node.prepend(made)
        take_over(out, last.outputs[0])
        self.model.graph.remove(node, safe=True)

    # ---------------------------------------------------------------------------------------------- wires

    def _wire(self, value: ir.Value) -> None:
        """Insert Q and DQ behind a value: for every reader, or for each group of those that have sites of their own."""
        name = value.name or ""
        uses = [(use.node, use.idx) for use in value.uses()]
        by_group: dict[int, list[tuple[ir.Node, int]]] = {}
        for node, port in uses:
            group = self.plan.sites.get(Site(name, node.name or "", port))
            if group is not None:
                by_group.setdefault(group, []).append((node, port))
        everyone = self.plan.sites.get(Site(name))
        for group, readers in by_group.items():
            self._pair(value, group, readers, everyone=False)
        if everyone is not None:
            alone = {reader for readers in by_group.values() for reader in readers}
            self._pair(value, everyone, [use for use in uses if use not in alone], everyone=not alone)

    def _pair(self, value: ir.Value, group: int, readers: list[tuple[ir.Node, int]], *, everyone: bool) -> None:
        """One Q and DQ behind a value, for these readers."""
        params, name = self.plan.groups[group].params, value.name or ""
        assert params is not None
        clamps = self._idle_clamps(value, params) if everyone else []
        source = clamps[-1].inputs[0] if clamps else value
        scale, zero = self._scale_and_zero(name, group, params)
        assert source is not None
        assert zero.dtype is not None
        q = self._node("QuantizeLinear", [source, scale, zero], f"{name}_quantized", zero.dtype)
        dq = self._node("DequantizeLinear", [q.outputs[0], scale, zero], f"{name}_dequantized", ir.DataType.FLOAT)
        q.outputs[0].shape = dq.outputs[0].shape = value.shape
        for node, port in readers:
            node.replace_input_with(port, dq.outputs[0])
        self._insert([q, dq], source)
        if value.is_graph_output() and Site(name) in self.plan.sites and self.plan.sites[Site(name)] == group:
            _swap_output(self.model, value, dq.outputs[0])
        for clamp in clamps:
            self.model.graph.remove(clamp, safe=True)

    def _insert(self, nodes: list[ir.Node], value: ir.Value) -> None:
        producer = value.producer()
        if producer is not None:
            producer.append(nodes)
        else:
            self.model.graph.insert_before(self.model.graph[0], nodes)

    def _idle_clamps(self, value: ir.Value, params: QParams) -> list[ir.Node]:
        """The clamps in front of `value`, behind a quantized node, that change nothing in the codes, last first."""
        found: list[ir.Node] = []
        all_idle, node = True, value.producer()
        while self.clamps and node is not None and node.op_type in CLAMPS:
            before = node.inputs[0]
            maker = before.producer() if before is not None else None
            if before is None or maker is None or len(before.uses()) != 1 or before.is_graph_output():
                break
            all_idle = all_idle and idle(node, params)
            found += [node] if all_idle else []
            if maker.op_type not in CLAMPS and any(site.consumer == maker.name for site in self.plan.sites):
                return found
            node = maker
        return []


def _swap_output(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Give `new` the graph output `old`, with its name; `old` goes on inside under another."""
    name = old.name
    for i, output in enumerate(model.graph.outputs):
        if output is old:
            model.graph.outputs[i] = new
    old.name, new.name = f"{name}_float", name
