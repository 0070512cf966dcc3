"""Pairs of QuantizeLinear (Q) and DequantizeLinear (DQ), taken out of a graph; where they stood becomes a plan.

See `halfeven.importers.qdq` for what becomes of what.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.graph import edit, ops
from halfeven.graph.biases import bias_params
from halfeven.graph.clamps import CLAMPS
from halfeven.graph.pairs import DEQUANTIZE, QUANTIZE, is_border, params_at, same, shape_of
from halfeven.graph.plan import Plan, Quantizer, Role, Site
from halfeven.importers.qdq_constants import as_listed, narrowed, narrowed_numbers, real_tensor, transposed
from halfeven.importers.qdq_moves import chains_apart, pull_up
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, per_channel
from halfeven.targets.target import Target
from halfeven.wording import counted

FLOAT = "float in the imported model"
ENDINGS = re.compile(r"(.+?)_(?:quantized|QuantizeLinear(?:_Output)?)(?:_\d+)?")


@dataclass(frozen=True)
class _Tap:
    """What some readers of a value see it through. `output`: the graph's caller does too."""

    params: QParams
    key: object
    readers: tuple[tuple[ir.Node, int], ...]
    output: bool
    by: str


@dataclass
class Reading:
    """Takes pairs out of one graph, and notes where they were."""

    model: ir.Model
    target: Target
    taps: dict[ir.Value, list[_Tap]] = field(default_factory=dict)
    groups: dict[int, Quantizer] = field(default_factory=dict)
    sites: dict[Site, int] = field(default_factory=dict)
    keys: dict[object, int] = field(default_factory=dict)
    reals: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    inexact: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        """Walk the graph: constants and pairs first, then where the readers stand."""
        graph = self.model.graph
        self.names = edit.value_names(self.model)
        for node in graph:
            if node.op_type in (QUANTIZE, DEQUANTIZE) and node.inputs[0] is not None and node.outputs[0].shape is None:
                shape = shape_of(node.inputs[0])
                node.outputs[0].shape = None if shape is None else ir.Shape(shape)
        pull_up(self.model, self.names)
        chains_apart(self.model, self.names)
        for node in list(graph):
            if node.graph is None:
                continue
            params = params_at(node) if is_border(node, QUANTIZE) or is_border(node, DEQUANTIZE) else None
            if params is None:
                if node.op_type in ops.QUANTIZED_OPS:
                    self._leave(node)
            elif node.op_type == QUANTIZE:
                self._pair(node, params)
            else:
                self._dequantize(node, params)
        for value, taps in self.taps.items():
            self._place(value, taps)
        self._sweep()
        plan = self._with_biases(Plan(self.groups, self.sites))
        return replace(plan, floats=self._floats(plan))

    def _floats(self, plan: Plan) -> dict[str, str]:
        """The nodes that read no codes, nor clamp what such a node makes."""
        coded: set[ir.Node] = set()
        for node in self.model.graph:
            maker = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            listed = self.target.rule(node.op_type) is not None
            if (listed and _reads_codes(plan.sites, node)) or (node.op_type in CLAMPS and maker in coded):
                coded.add(node)
        others = [node.name or "" for node in self.model.graph.all_nodes() if node not in coded]
        return {name: self.left.get(name, FLOAT) for name in others}

    def _leave(self, node: ir.Node) -> None:
        self.left[node.name or ""] = f"{node.op_type}, left as the imported model has it"

    def said(self) -> list[str]:
        """What was left, and what could not be kept."""
        said = [*self.notes]
        if self.left:
            nodes, first = counted(len(self.left), "node"), next(iter(self.left))
            said.append(f"{nodes} whose scales or codes no plan can hold stay as they are, the first being '{first}'")
        for name, count in self.inexact.items():
            said.append(f"'{name}': {counted(count, 'code')} of 32 bits have no float32 number, and change a little")
        return said

    # ------------------------------------------------------------------------------------------- pairs

    def _pair(self, q: ir.Node, params: QParams) -> None:
        """A QuantizeLinear and the DequantizeLinear nodes behind it."""
        source, codes = q.inputs[0], q.outputs[0]
        dqs = [use.node for use in codes.uses()]
        apart = [dq for dq in dqs if not is_border(dq, DEQUANTIZE) or dq.graph is not q.graph or not _fits(dq, params)]
        if source is None or apart or not (dqs or codes.is_graph_output()) or (dqs and codes.is_graph_output()):
            self._leave(q)
            return
        constant = ops.constant_of(source)
        if constant is not None:
            self._numbers(q, dqs, constant, params)
            return
        outs = [dq.outputs[0] for dq in dqs] or [codes]
        output = next((v for v in outs if v.is_graph_output()), None)
        if output is not None:
            source = self._as_output(q, source, output, real=bool(dqs))
        elif (name := _float_name(codes.name)) and name not in self.names and _inner(source):
            edit.rename(source, name)
            self.names.add(name)
        readers = tuple((use.node, use.idx) for v in outs for use in v.uses())
        key = (*_parameters(q), str(params.scheme.grid))
        self.taps.setdefault(source, []).append(_Tap(params, key, readers, output is not None, q.name or ""))
        for value in outs:
            value.replace_all_uses_with(source)
        for node in (*dqs, q):
            edit.remove(node)

    def _as_output(self, q: ir.Node, source: ir.Value, output: ir.Value, *, real: bool) -> ir.Value:
        """Let the quantized value be the graph's output, in real numbers, under the output's name."""
        if not _inner(source) or len(source.uses()) > 1:
            between = ir.Node("", "Identity", [source], num_outputs=1, name=f"{q.name}_Identity")
            between.outputs[0].type, between.outputs[0].shape = source.type, source.shape
            between.outputs[0].name = edit.unused(f"{source.name}_copy", self.names)
            q.prepend(between)
            q.replace_input_with(0, between.outputs[0])
            source = between.outputs[0]
        if not real:
            self.notes.append(f"output '{output.name}' gave codes; in the imported model it gives real numbers")
        name, outputs = output.name or "", self.model.graph.outputs
        outputs[list(outputs).index(output)] = source
        output.name = None
        edit.rename(source, name)
        source.type = ir.TensorType(ir.DataType.FLOAT)
        return source

    # --------------------------------------------------------------------------------------- constants

    def _dequantize(self, dq: ir.Node, params: QParams) -> None:
        """A DequantizeLinear of a constant, or of an input of codes; others have gone with their Q, or stay."""
        codes, out = dq.inputs[0], dq.outputs[0]
        constant = ops.constant_of(codes)
        if codes is None or out.is_graph_output() or (constant is None and not self._is_input(codes, params)):
            self._leave(dq)
            return
        if constant is None:
            self._input(codes, params)
            return
        params = narrowed(constant, params)
        key: tuple[object, ...] = (codes, *_parameters(dq))
        while (turn := _transpose_behind(out)) is not None:
            constant, params = transposed(constant, params, turn[1])
            out, key = turn[0].outputs[0], (*key, turn[1])
        if key not in self.reals:
            self.reals[key] = self._real(codes, constant, params)
        self._constant(self.reals[key], params, key, out, dq.name or "")

    def _real(self, codes: ir.Value, constant: ir.TensorProtocol, params: QParams) -> ir.Value:
        """An initializer of the real numbers that codes stand for."""
        name = edit.unused(_float_name(codes.name) or f"{codes.name}_real", self.names)
        tensor, lost = real_tensor(constant, params, name)
        if lost:
            self.inexact[name] = lost
        return edit.add_initializer(self.model.graph, name, tensor)

    def _numbers(self, q: ir.Node, dqs: list[ir.Node], constant: ir.TensorProtocol, params: QParams) -> None:
        """A constant that the graph itself quantizes."""
        value = q.inputs[0]
        assert value is not None
        if any(dq.outputs[0].is_graph_output() for dq in dqs) or constant.dtype != ir.DataType.FLOAT:
            self._leave(q)
            return
        for dq in dqs:
            self._constant(
                value, narrowed_numbers(constant, params), (value, *_parameters(q)), dq.outputs[0], q.name or ""
            )
        edit.remove(q)

    def _constant(self, value: ir.Value, params: QParams, key: tuple[object, ...], out: ir.Value, by: str) -> None:
        """Let the readers of `out` read the constant `value`, each at a site of the same group."""
        for use in list(out.uses()):
            role: Role = "bias" if _is_bias(use.node, use.idx, params) else "weight"
            rule, shaped, own = self.target.rule(use.node.op_type), params, (*key, role)
            if role == "bias":
                own = (*own, use.node, use.idx)
            elif rule is not None:
                shaped = as_listed(params, [s for s in (rule.weight, rule.data) if s is not None])
                own = (*own, shaped.scheme)
            group = self._group(own, shaped, role, by)
            self.sites[Site(value.name or "", use.node.name or "", use.idx)] = group
            use.node.replace_input_with(use.idx, value)
        node = out.producer()
        while node is not None and not any(v.uses() for v in node.outputs):
            before = node.inputs[0]
            edit.remove(node)
            node = before.producer() if before is not None and before is not value else None
            node = node if node is not None and node.op_type in (DEQUANTIZE, "Transpose") else None

    def _is_input(self, codes: ir.Value, params: QParams) -> bool:
        uses = list(codes.uses())
        whole = all(is_border(u.node, DEQUANTIZE) and _fits(u.node, params) for u in uses)
        return codes.is_graph_input() and not codes.is_graph_output() and whole

    def _input(self, codes: ir.Value, params: QParams) -> None:
        """An input of codes becomes one of real numbers, quantized at once."""
        dqs = [use.node for use in codes.uses()]
        readers = tuple((use.node, use.idx) for dq in dqs for use in dq.outputs[0].uses())
        key = (*_parameters(dqs[0]), str(params.scheme.grid))
        self.taps.setdefault(codes, []).append(_Tap(params, key, readers, False, dqs[0].name or ""))
        for dq in dqs:
            dq.outputs[0].replace_all_uses_with(codes)
            edit.remove(dq)
        codes.type = ir.TensorType(ir.DataType.FLOAT)
        self.model.metadata_props.pop(f"halfeven.io.{codes.name}", None)
        self.notes.append(f"input '{codes.name}' took codes; in the imported model it takes real numbers")

    # ------------------------------------------------------------------------------------------- sites

    def _place(self, value: ir.Value, taps: list[_Tap]) -> None:
        """One site for all readers if all see the value alike and an integer operator makes it; else one for each."""
        uses = {(use.node, use.idx) for use in value.uses()}
        alike = all(same(tap.params, taps[0].params) for tap in taps)
        everyone = uses == {reader for tap in taps for reader in tap.readers}
        made = _made_of_codes(self.sites, value) or taps[0].output
        if alike and everyone and made and (not value.is_graph_output() or taps[0].output):
            self.sites[Site(value.name or "")] = self._activation(taps[0])
            return
        for tap in taps:
            for node, port in tap.readers:
                self.sites[Site(value.name or "", node.name or "", port)] = self._activation(tap)

    def _activation(self, tap: _Tap) -> int:
        params = tap.params
        if params.scheme.tiling == PER_TENSOR:
            params = QParams(params.scheme, params.scale.reshape(()), params.zero_point.reshape(()))
        listed = as_listed(params, [rule.data for rule in self.target.rules], every=False)
        return self._group(tap.key, listed, "activation", tap.by)

    def _group(self, key: object, params: QParams, role: Role, by: str) -> int:
        if key not in self.keys:
            self.keys[key] = len(self.keys)
            self.groups[self.keys[key]] = Quantizer(params.scheme, f"imported: {by}", role, params)
        return self.keys[key]

    def _with_biases(self, plan: Plan) -> Plan:
        """The plan; a bias whose scale follows from its layer's others has none of its own any more."""
        nodes = {node.name or "": node for node in self.model.graph}
        for site, group in self.sites.items():
            quantizer = plan.groups[group]
            if quantizer.role != "bias" or quantizer.params is None or site.consumer not in nodes:
                continue
            try:
                derived = bias_params(plan, nodes[site.consumer], replace(quantizer, params=None))
            except UnsupportedByTarget:
                continue
            if (derived.scale.ravel() == quantizer.params.scale.ravel()).all():
                tiling = PER_TENSOR if derived.scale.size == 1 else per_channel(0)
                plan = plan.with_group(
                    group, Quantizer(Scheme(quantizer.scheme.grid, tiling), quantizer.reason, "bias")
                )
        return plan

    def _sweep(self) -> None:
        """Remove the scales, zero points and codes that nobody reads any more."""
        for name, value in list(self.model.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.model.graph.initializers[name]


def _reads_codes(sites: Mapping[Site, int], node: ir.Node) -> bool:
    names = [(v.name or "", port) for port, v in enumerate(node.inputs) if v is not None]
    return any(Site(name) in sites or Site(name, node.name or "", port) in sites for name, port in names)


def _made_of_codes(sites: Mapping[Site, int], value: ir.Value) -> bool:
    """Whether a node that reads codes makes the value, clamps between them aside."""
    node = value.producer()
    while node is not None and not _reads_codes(sites, node):
        before = node.inputs[0] if node.op_type in CLAMPS else None
        node = before.producer() if before is not None else None
    return node is not None


def _fits(dq: ir.Node, params: QParams) -> bool:
    found = params_at(dq)
    return found is not None and same(found, params)


def _inner(value: ir.Value) -> bool:
    """Whether a node of the graph makes the value, and no caller sees it."""
    return value.producer() is not None and not value.is_graph_output()


def _parameters(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The values that hold scale and zero point."""
    return tuple(node.inputs[1:3])


def _float_name(name: str | None) -> str:
    """The name that a value had before its codes were named; empty where its name does not tell."""
    found = ENDINGS.fullmatch(name or "")
    return found[1] if found else ""


def _is_bias(node: ir.Node, port: int, params: QParams) -> bool:
    traits = ops.TRAITS.get(node.op_type) if node.domain == "" else None
    return traits is not None and port == traits.bias and params.scheme.grid.bits == 32 and params.scheme.symmetric


def _transpose_behind(value: ir.Value) -> tuple[ir.Node, tuple[int, ...]] | None:
    """The Transpose that alone reads a value, and its order of axes."""
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Transpose" or uses[0].node.domain or value.is_graph_output():
        return None
    order = ops.attribute(uses[0].node, "perm", None)
    if order is None or uses[0].node.outputs[0].is_graph_output():
        return None
    return uses[0].node, tuple(int(i) for i in order)
