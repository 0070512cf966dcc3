"""Placement: target table x graph -> plan.

Quantizers stand on the wires between integer units (`regions`): one on what a unit makes, or, where the maker stays
float, one for each integer reader, all of one group. Operators that move codes about tie their inputs and outputs into
one group (union-find over values), so that a scale is solved once for all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.scheme import PER_TENSOR, Scheme, per_channel
from halfeven.stats.distance import sqnr_db
from halfeven.steps.regions import Unit, choose, make_units
from halfeven.targets.target import OpRule, Target

TABLE_ROWS = 4096
TABLE_SQNR = 30.0


@dataclass(frozen=True)
class Place:
    """Decide what is quantized and what stays float, from the target's table and its measured costs."""

    name: ClassVar[str] = "place"
    keep_float: tuple[str, ...] = ()
    """Nodes that stay float: glob patterns on node names or operator types."""
    prefer: Literal["speed", "size"] = "speed"
    """`speed`: quantize only what pays on the target. `size`: quantize every weight that can be."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with a plan. Needs `draft.shapes` (from Trace) for the costs."""
        if self.prefer not in ("speed", "size"):
            raise BadOption(f"--prefer '{self.prefer}' is not known. Choose speed or size.")
        reasons = {**_rough_tables(draft.model, draft.target), **_masks(draft), **_post_processing(draft.model)}
        reasons.update(_kept(draft.model, self.keep_float))
        units = make_units(draft.model, draft.target, reasons)
        chosen, floats = choose(units, draft.target, draft.shapes, self.prefer)
        plan = _Placer(draft.model, draft.target, chosen).plan()
        named = {node.name or "": reason for unit, reason in floats.items() for node in unit.nodes}
        return replace(draft, plan=replace(plan, floats={**named, **_inner(draft.model)}))


def _kept(model: ir.Model, patterns: Sequence[str]) -> dict[str, str]:
    """Nodes the user keeps in float; a pattern that matches nothing is an error, as it is most likely a slip."""
    found: dict[str, str] = {}
    for pattern in patterns:
        names = [n.name or "" for n in model.graph if fnmatchcase(n.name or "", pattern) or n.op_type == pattern]
        if not names:
            raise BadOption(f"--keep-float '{pattern}' matches no node. `halfeven inspect` lists the names.")
        found.update(dict.fromkeys(names, f"kept in float by --keep-float '{pattern}'"))
    return found


def _post_processing(model: ir.Model) -> dict[str, str]:
    """What leads from the last layers to NonMaxSuppression and its kin, and all that follows."""
    ends = [node for node in model.graph if node.op_type in ops.POST_OPS]
    found: dict[str, str] = {}
    for end in ends:
        reason = f"post-processing around {end.op_type} '{end.name}': boxes and scores must not share a scale"
        for step in (ir.Node.predecessors, ir.Node.successors):
            queue = [end]
            while queue:
                node = queue.pop()
                if node.name in found and node is not end:
                    continue
                found[node.name or ""] = reason
                queue += [n for n in step(node) if ops.weight_port(n) is None or n.op_type not in ops.COMPUTE_OPS]
    return found


def _masks(draft: Draft) -> dict[str, str]:
    """Nodes that touch values of astronomic size, such as attention masks of -3.4e38."""
    huge = draft.huge
    return {
        node.name or "": f"'{value.name}' reaches {huge[value.name or '']:.2g} (a mask): no scale can hold that and data"
        for node in draft.model.graph
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.name in huge
    }


def _rough_tables(model: ir.Model, target: Target) -> dict[str, str]:
    """Lookup tables whose rows hold outliers beside which int8 leaves little of the rest."""
    rule = target.rule("Gather")
    found: dict[str, str] = {}
    for node in model.graph if rule is not None and rule.weight is not None else []:
        if node.op_type != "Gather" or ops.weight_port(node) is None or ops.weight_axis(node, 0) is None:
            continue
        table = ops.constant_of(node.inputs[0])
        assert table is not None and rule is not None and rule.weight is not None
        rows = table.numpy()[:: max(1, int(table.shape[0]) // TABLE_ROWS)].astype(np.float32)
        quality = sqnr_db(rows, fake_quantize(rows, params_of(rows, rule.weight)))
        if quality < TABLE_SQNR:
            found[node.name or ""] = f"its table has outliers: int8 rows would keep {quality:.0f} dB of it"
    return found


def _inner(model: ir.Model) -> dict[str, str]:
    """Nodes inside If, Loop and Scan bodies."""
    top = set(model.graph)
    reason = "inside the body of a control-flow operator, whose tensors cannot be observed"
    return {node.name or "": reason for node in model.graph.all_nodes() if node not in top}


class _Placer:
    """Sites and groups of the chosen units."""

    def __init__(self, model: ir.Model, target: Target, chosen: Iterable[Unit]) -> None:
        chosen = set(chosen)
        order = {node: i for i, node in enumerate(model.graph)}
        self.units = sorted(chosen, key=lambda unit: order[unit.head])
        self.target = target
        self.integer_nodes = {node for unit in self.units for node in unit.nodes}
        self.parent: dict[str, str] = {}
        self.activations: dict[Site, tuple[str, Scheme, str]] = {}
        self.constants: list[tuple[Site, Quantizer]] = []

    def plan(self) -> Plan:
        """The plan, without reasons for float nodes."""
        for unit in self.units:
            self._inputs(unit)
        for unit in self.units:
            self._outputs(unit)
        groups: dict[int, Quantizer] = {}
        sites: dict[Site, int] = {}
        ids: dict[str, int] = {}
        for site, (value, scheme, reason) in self.activations.items():
            root = self._root(value)
            group = ids.setdefault(root, len(ids))
            groups.setdefault(group, Quantizer(scheme, reason))
            sites[site] = group
        for site, quantizer in self.constants:
            same = next((g for s, g in sites.items() if s.value == site.value and groups[g] == quantizer), None)
            group = len(groups) if same is None or quantizer.role == "bias" else same
            groups[group] = quantizer
            sites[site] = group
        return Plan(groups, sites)

    def _root(self, value: str) -> str:
        self.parent.setdefault(value, value)
        while self.parent[value] != value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _makes_codes(self, value: ir.Value) -> bool:
        """Whether an integer unit hands this value on as codes."""
        node = value.producer()
        if node is None or node not in self.integer_nodes:
            return False
        unit = next(u for u in self.units if node in u.nodes)
        assert unit.rule is not None
        if unit.head.op_type == "Gather" and ops.weight_port(unit.head) is not None:
            return False
        users = [use.node for use in value.uses()]
        all_integer = bool(users) and all(n in self.integer_nodes for n in users) and not value.is_graph_output()
        return all_integer if unit.rule.output == "either" else True

    def _inputs(self, unit: Unit) -> None:
        node, rule = unit.head, unit.rule
        assert rule is not None
        name, weight = node.name or "", ops.weight_port(node) if node.op_type in ops.TRAITS else None
        if weight is not None:
            self._weight(node, weight, rule)
        for port in ops.data_ports(node) if node.op_type != "Gather" or weight is None else []:
            if rule.ports is not None and port not in rule.ports:
                continue
            value = node.inputs[port]
            assert value is not None and value.name is not None
            site = Site(value.name) if self._makes_codes(value) else Site(value.name, name, port)
            self.activations[site] = (value.name, rule.data, f"{self.target.name}: {node.op_type} '{name}' reads {rule.data}")
            if rule.output == "as_input":
                for output in node.outputs:
                    self.parent[self._root(output.name or "")] = self._root(value.name)
        if weight is None and node.op_type in ("Add", "Mul", "Sub", "Concat", "PRelu"):
            for port, value in enumerate(node.inputs):
                if (tensor := ops.constant_of(value)) is not None and tensor.dtype in ops.FLOATS:
                    reason = f"{self.target.name}: constant operand of {node.op_type}"
                    self.constants.append((Site(value.name or "", name, port), Quantizer(rule.data, reason, "weight")))  # type: ignore[union-attr]

    def _weight(self, node: ir.Node, port: int, rule: OpRule) -> None:
        assert rule.weight is not None
        axis = ops.weight_axis(node, port)
        per = rule.weight.tiling.axis is not None and axis is not None
        scheme = replace(rule.weight, tiling=per_channel(axis) if per and axis is not None else PER_TENSOR)
        weight, name = node.inputs[port], node.name or ""
        assert weight is not None and weight.name is not None
        self.constants.append((Site(weight.name, name, port), Quantizer(scheme, f"{self.target.name}: {node.op_type} weight, {scheme}", "weight")))
        bias = ops.bias_of(node)
        if bias is not None and bias.name is not None and self.target.numerics.bias_bits:
            grid = IntGrid(self.target.numerics.bias_bits)
            scheme = Scheme(grid, per_channel(0) if scheme.tiling.tiles else PER_TENSOR)
            self.constants.append((Site(bias.name, name, ops.TRAITS[node.op_type].bias or 0), Quantizer(scheme, f"{self.target.name}: bias of {node.op_type}, scale = input scale * weight scale", "bias")))

    def _outputs(self, unit: Unit) -> None:
        rule = unit.rule
        assert rule is not None
        for value in unit.outputs:
            if value.name and self._makes_codes(value) and list(value.uses()) or value.is_graph_output() and self._makes_codes(value):
                self.activations.setdefault(Site(value.name or ""), (value.name or "", rule.data, f"{self.target.name}: output of {unit.head.op_type} '{unit.head.name}'"))

