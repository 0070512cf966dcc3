"""From the entries of a table to a plan for a float model and a target.

    activation    where the target's table has integer operators that read it, or one that makes it; for each of these
                  readers alone where its maker hands real numbers on
    weight        at each reader; narrow where the target's codes are, as files do not say
    bias          at each layer whose data and weight are quantized, by their scales, where the target has it so

A table names tensors, not readers, so a float operator that reads one as well sees it unquantized. What an operator
only moves keeps the scale of what it came from. In a `complete` table, one that lists every tensor of a network as
TensorRT's cache does, a tensor between a layer and the activation that the target fuses into it is passed over, and
names that the model lacks are those of the tool's own tensors; the reasons in the plan say so. Elsewhere such names are
refused. Weights that a complete table does not name are left to calibration, without data: by their largest value.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph import ops
from halfeven.graph.constants import lift_constants
from halfeven.graph.encodings import Encoding
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Plan, Quantizer, Role, Site
from halfeven.graph.stored_biases import fit_biases
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, ZeroRule, per_channel
from halfeven.targets.target import OpRule, Target
from halfeven.wording import counted

SHOWN = 5


def needed(model: ir.Model | None, what: str) -> ir.Model:
    """The model with names for everything and constants as initializers. Raises BadOption: there is none."""
    if model is None:
        raise BadOption(f"{what} names tensors, but not what reads them: give the float model that it is of, too.")
    copy = model.clone()
    name_everything(copy)
    lift_constants(copy)
    return copy


def plan_from(
    entries: Iterable[Encoding],
    model: ir.Model,
    target: Target,
    source: str,
    *,
    complete: bool = False,
    floats: Iterable[str] = (),
) -> Plan:
    """The plan of a table's entries, with parameters pinned; `source` begins each reason. Nodes of `floats` stay so.

    Raises:
        BadOption: the table holds no scale.
        UnsupportedModel: the table names tensors that the model lacks (all that it names, where it is complete).
    """
    found = {entry.name: entry for entry in entries}
    if not found:
        raise BadOption(f"{source} holds no scale, so that nothing would be quantized. Make the table anew.")
    values = _values(model)
    lacking = [name for name in found if name not in values]
    known = {name: entry for name, entry in found.items() if name in values}
    if lacking and (not complete or not known):
        named = ", ".join(f"'{name}'" for name in lacking[:SHOWN]) + (", ..." if len(lacking) > SHOWN else "")
        raise UnsupportedModel(
            f"{source} names {counted(len(lacking), 'tensor')} that the model lacks: {named}. Give the model that the "
            "table was made for."
        )
    if lacking:
        source += (
            f" (which names {counted(len(lacking), 'tensor')} that the model lacks, '{lacking[0]}' being the first)"
        )
    placing = _Placing(model, target, source, known, complete)
    placing.floats.update(dict.fromkeys(floats, f"{source} keeps it in float"))
    placing.moved()
    for node in model.graph:
        placing.read(node)
    placing.rest()
    return fit_biases(model, Plan(placing.groups, placing.sites, placing.floats, scaling=""))


@dataclass
class _Placing:
    """Fills a plan."""

    model: ir.Model
    target: Target
    source: str
    entries: dict[str, Encoding]
    complete: bool
    groups: dict[int, Quantizer] = field(default_factory=dict)
    sites: dict[Site, int] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    ids: dict[object, int] = field(default_factory=dict)

    def moved(self) -> None:
        """Give what is only moved the parameters of what it came from, where it has none; pass over inner tensors."""
        for node in self.model.graph:
            rule, read = self.rule(node), node.inputs[0] if node.inputs else None
            entry = self.entries.get(read.name or "") if read is not None else None
            out = node.outputs[0].name or ""
            if rule is not None and rule.output == "as_input" and entry is not None and not entry.readers:
                self.entries.setdefault(out, replace(entry, name=out))
            if self.complete and rule is not None and rule.fuses and self.follower(node, rule) is not None:
                self.entries.pop(out, None)

    def read(self, node: ir.Node) -> None:
        """The sites of what one operator reads and makes."""
        rule = self.rule(node)
        if rule is None:
            return
        weight, ports = ops.weight_port(node), self.ports(node, rule)
        if weight is not None and not self.weight(node, weight, rule):
            return
        for port in ports:
            self.activation(node, port)
        for port in self.constants(node) if weight is None else ():
            self.constant(node, port, "weight")
        if weight is not None and ports and all(self.seen(node, port) for port in ports):
            self.bias(node, rule)

    def rest(self) -> None:
        """What integer operators make, what the table names beyond, and the nodes that stay float."""
        used = {site.value for site in self.sites}
        made = {v.name or "": v for node in self.model.graph for v in node.outputs}
        for name, entry in self.entries.items():
            if entry.role != "activation" or name in used:
                continue
            node = self.head(made[name]) if name in made else None
            rule = self.rule(node) if node is not None else None
            own = rule is not None and rule.output != "either" and self.makes_codes(made[name])
            if own or not self.complete:
                self.put(Site(name), entry, "activation")
        for node in self.model.graph:
            name, ports = node.name or "", ops.data_ports(node)
            fused = any(self.head(value) is not node for value in node.outputs[:1])
            if name in self.floats or fused or not ports:
                continue
            if self.rule(node) is None:
                self.floats[name] = f"{self.target.name} has no integer kernel for {node.op_type}"
            elif not any(self.seen(node, port) for port in (*ports, *self.weights(node))):
                self.floats[name] = f"{self.source} has no scale for what it reads"

    # ------------------------------------------------------------------------------------------------ pieces

    def rule(self, node: ir.Node) -> OpRule | None:
        return self.target.rule(node.op_type) if node.domain == "" and node.name not in self.floats else None

    def ports(self, node: ir.Node, rule: OpRule) -> list[int]:
        """The inputs that are codes; of a sum, not the summand that a layer makes for it alone."""
        ports = [p for p in ops.data_ports(node) if rule.ports is None or p in rule.ports]
        own = [p for p in ports if rule.residual and _made_for(node, p)]
        return [p for p in ports if p not in own[-1:]]

    def follower(self, node: ir.Node, rule: OpRule) -> ir.Node | None:
        """The activation that the target fuses into a node."""
        value = node.outputs[0]
        uses = list(value.uses())
        alone = len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type in rule.fuses
        return uses[0].node if alone else None

    def head(self, value: ir.Value) -> ir.Node | None:
        """The operator that makes a value, over the activation that is fused into it."""
        node = value.producer()
        first = node.inputs[0] if node is not None and node.inputs else None
        before = first.producer() if first is not None else None
        rule = self.rule(before) if before is not None else None
        fused = before is not None and rule is not None and self.follower(before, rule) is node
        return before if fused else node

    def weights(self, node: ir.Node) -> list[int]:
        """The port of a layer's weight."""
        port = ops.weight_port(node)
        return [] if port is None else [port]

    def makes_codes(self, value: ir.Value) -> bool:
        """Whether an integer operator hands a value on as codes, to all."""
        node = self.head(value)
        rule = self.rule(node) if node is not None else None
        if node is None or rule is None:
            return False
        ports = self.ports(node, rule)
        if (weight := ops.weight_port(node)) is not None:
            return not ports or (self.seen(node, weight) and any(self.seen(node, port) for port in ports))
        return any(self.seen(node, port) for port in ports)

    def seen(self, node: ir.Node, port: int) -> bool:
        value = node.inputs[port]
        return value is not None and (
            Site(value.name or "") in self.sites or Site(value.name or "", node.name or "", port) in self.sites
        )

    def constants(self, node: ir.Node) -> Iterator[int]:
        """Ports of constants that the table names."""
        for port, value in enumerate(node.inputs):
            if value is not None and ops.constant_of(value) is not None and value.name in self.entries:
                yield port

    def activation(self, node: ir.Node, port: int) -> None:
        value = node.inputs[port]
        assert value is not None
        entry = self.entries.get(value.name or "")
        if entry is None or entry.role != "activation":
            return
        own = Site(value.name or "", node.name or "", port)
        if entry.readers and (own.consumer, own.port) not in entry.readers:
            return
        everyone = not entry.readers and self.makes_codes(value)
        self.put(Site(own.value) if everyone else own, entry, "activation")

    def weight(self, node: ir.Node, port: int, rule: OpRule) -> bool:
        """Put a layer's weight into the plan; whether it is quantized."""
        value = node.inputs[port]
        assert value is not None
        if value.name in self.entries:
            self.constant(node, port, "weight")
            return True
        scaled = any((v := node.inputs[p]) is not None and v.name in self.entries for p in self.ports(node, rule))
        if not self.complete or rule.weight is None or not scaled:
            return False
        axis = ops.weight_axis(node, port) if rule.weight.tiling.axis is not None else None
        scheme = replace(rule.weight, tiling=PER_TENSOR if axis is None else per_channel(axis))
        reason = f"{self.source} leaves the weight of {node.op_type} '{node.name}' to its largest value"
        group = self.ids.setdefault((value.name, scheme), len(self.ids))
        self.groups[group] = Quantizer(scheme, reason, "weight")
        self.sites[Site(value.name or "", node.name or "", port)] = group
        return True

    def constant(self, node: ir.Node, port: int, role: Role) -> None:
        value = node.inputs[port]
        assert value is not None
        entry = self.entries[value.name or ""]
        self.put(Site(value.name or "", node.name or "", port), entry, role)

    def bias(self, node: ir.Node, rule: OpRule) -> None:
        bias, bits = ops.bias_of(node), self.target.numerics.bias_bits
        if bias is None or ops.constant_of(bias) is None or not bits or rule.weight is None:
            return
        port = ops.weight_port(node)
        weight = self.groups[self.sites[Site(node.inputs[port].name or "", node.name or "", port)]]  # type: ignore
        axis = per_channel(0) if weight.scheme.tiling.tiles else PER_TENSOR
        scheme = Scheme(IntGrid(bits), axis, rule.weight.scale)
        entry = self.entries.get(bias.name or "")
        own = entry is not None and entry.params.scheme.grid.bits == bits < 32
        params = replace(entry.params, scheme=scheme) if entry is not None and own else None
        reason = f"{self.source}: bias of {node.op_type} '{node.name}'"
        group = self.ids.setdefault((bias.name, node.name), len(self.ids))
        self.groups[group] = Quantizer(scheme, reason, "bias", params)
        self.sites[Site(bias.name or "", node.name or "", ops.TRAITS[node.op_type].bias or 0)] = group

    def put(self, site: Site, entry: Encoding, role: Role) -> None:
        group = self.ids.setdefault(entry.name, len(self.ids))
        wanted = self.wanted(site, role)
        params = fitted(entry.params, wanted) if wanted is not None else entry.params
        self.groups[group] = Quantizer(params.scheme, f"{self.source}: '{entry.name}'", role, params)
        self.sites[site] = group

    def wanted(self, site: Site, role: Role) -> Scheme | None:
        """The scheme that the target has for a site."""
        if role == "activation":
            return self.target.rules[0].data
        rule = next((self.rule(n) for n in self.model.graph if n.name == site.consumer), None)
        return None if rule is None else rule.weight or rule.data


def fitted(params: QParams, wanted: Scheme) -> QParams:
    """What a file cannot state, as the target has it: the sign of codes, narrow codes, powers of two, free zeros."""
    scheme, zeros, scale_rule = params.scheme, params.zero_point, params.scheme.scale
    grid, like = scheme.grid, wanted.grid
    if grid.bits == like.bits and grid.signed != like.signed and (zeros.any() or not wanted.symmetric):
        by = (1 << (grid.bits - 1)) * (1 if grid.signed else -1)
        zeros, grid = (zeros + np.int32(by)).astype(np.int32), replace(grid, signed=like.signed, narrow=False)
    if grid.bits == like.bits and grid.signed and like.narrow and not zeros.any():
        grid = replace(grid, narrow=True)
    if (np.frexp(params.scale)[0] == 0.5).all():
        scale_rule = wanted.scale
    free = bool(zeros.any()) or (not wanted.symmetric and grid.signed == like.signed)
    kind = ZeroRule.FREE if free else ZeroRule.NONE
    return QParams(replace(scheme, grid=grid, scale=scale_rule, zero_point=kind), params.scale, zeros)


def _made_for(node: ir.Node, port: int) -> bool:
    value = node.inputs[port]
    maker = value.producer() if value is not None else None
    return value is not None and maker is not None and ops.is_layer(maker) and len(value.uses()) == 1


def _values(model: ir.Model) -> set[str]:
    graph = model.graph
    made: Sequence[ir.Value] = [v for node in graph for v in node.outputs]
    return {v.name or "" for v in (*graph.inputs, *graph.initializers.values(), *made)}
