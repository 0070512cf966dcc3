"""Placement: target table x graph -> plan.

Quantizers stand on the wires between integer units (`regions`): one on what a unit makes, or, where the maker stays
float, one for each integer reader, all of one group. Operators that move codes about tie their inputs and outputs into
one group (union-find over values), so that a scale is solved once for all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, TypeVar

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.plan import Plan, Quantizer, Role, Site
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, ZeroRule, per_channel
from halfeven.run.ort import HUGE
from halfeven.stats.distance import sqnr_db
from halfeven.steps.heads import heads, mixed_joins
from halfeven.steps.patterns import named
from halfeven.steps.reduced import with_reduced_range
from halfeven.steps.regions import Unit, choose, make_units
from halfeven.steps.weights import Mode, Packing, place_weights
from halfeven.steps.widths import in_widths, refuse_idle
from halfeven.targets.target import OpRule, Target

K = TypeVar("K")
TABLE_ROWS = 4096
TABLE_SQNR = 30.0
HALF_LARGEST = 65504.0
CARRIERS = frozenset(
    {"Add", "Sub", "Where", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Expand", "Slice", "Concat"}
    | {"Identity", "Tile", "Pad"}
)
"""Whose output holds their largest operand."""


@dataclass(frozen=True)
class Place:
    """Decide what is quantized and what stays float, from the target's table and its measured costs."""

    name: ClassVar[str] = "place"
    keep_float: tuple[str, ...] = ()
    """Nodes that stay float: glob patterns on node names or operator types."""
    prefer: Literal["speed", "size"] = "speed"
    """`speed`: quantize only what pays on the target. `size`: quantize every weight that can be."""
    mode: Mode = "static"
    """`static`: weights and activations, by scales from data. `dynamic`: activations by scales that each run finds.
    `weight-only`: weights; the file shrinks, the runtime computes in float. `float`: nothing."""
    bits: int = 8
    """static and weight-only: the bits of a weight of MatMul and Gemm, 8 or 4."""
    conv_bits: int = 8
    """static and weight-only: the bits of a weight of Conv and ConvTranspose, 8 or 4; 4 is stored so, computed in
    float."""
    reduce_range: tuple[str, ...] = ()
    """static and dynamic: layers with weights of 7 bits, -63 to 63, whose products cannot saturate on x86 without VNNI:
    glob patterns on node names or operator types."""
    activation_bits: int = 8
    """static: the bits of an activation, 8 or 16; 16 is computed in float by ONNX Runtime."""
    block: int = 0
    """weight-only: so many weights of one output share a scale: 16, 32, 64 or 128; 0: all of them."""
    block_scales: Literal["float", "integer"] = "float"
    """weight-only, blocks of 4 bits: `integer` makes their scales whole multiples, 1 to 16, of one scale a channel
    (LPBQ)."""
    zero_points: Literal["none", "free"] = "none"
    """weight-only: `free` gives MatMul and Gemm a zero point with each scale."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with a plan. Needs `draft.shapes` (from Trace) for the costs.

        Raises:
            BadOption: an option that is not known, that does nothing in the mode, or that the target cannot follow.
        """
        if self.prefer not in ("speed", "size"):
            raise BadOption(f"--prefer '{self.prefer}' is not known. Choose speed or size.")
        refuse_idle(self.mode, [f.name for f in fields(self) if getattr(self, f.name) != f.default])
        if self.mode != "static":
            kept, packed = (
                _kept(draft.model, self.keep_float),
                Packing(
                    self.bits, self.block, self.zero_points == "free", self.conv_bits, self.block_scales == "integer"
                ),
            )
            kept = {**_rough_tables(draft.model, draft.target), **kept, **_inner(draft.model)}
            placed = place_weights(draft, self.mode, kept, packed, every=self.prefer == "size")
            return replace(placed, plan=with_reduced_range(draft.model, placed.plan, self.reduce_range))
        reasons = {**_rough_tables(draft.model, draft.target), **_masks(draft), **heads(draft.model, draft.sizes)}
        reasons.update(mixed_joins(draft.model, draft.target))
        reasons.update(_shape_arithmetic(draft.model))
        reasons.update(_kept(draft.model, self.keep_float))
        target, said = in_widths(draft.target, self.bits, self.conv_bits, self.activation_bits)
        units = make_units(draft.model, target, reasons)
        chosen, floats = choose(units, target, draft.shapes, "size" if said else self.prefer)
        plan = with_reduced_range(draft.model, _Placer(draft.model, target, chosen).plan(), self.reduce_range)
        named = {node.name or "": reason for unit, reason in floats.items() for node in unit.nodes}
        named.update(_float_tails(chosen, plan))
        return replace(draft, plan=replace(plan, floats={**named, **_inner(draft.model)})).noting(*said)


def _kept(model: ir.Model, patterns: Sequence[str]) -> dict[str, str]:
    """Nodes the user keeps in float."""
    found = named(model.graph, patterns, "--keep-float")
    return {name: f"kept in float by --keep-float '{pattern}'" for name, pattern in found.items()}


def _shape_arithmetic(model: ir.Model) -> dict[str, str]:
    """What is computed from shapes alone, in whatever type."""
    made: set[ir.Value] = set()
    found: dict[str, str] = {}
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None and ops.constant_of(v) is None]
        if node.op_type in ops.SHAPE_OPS or (inputs and all(v in made for v in inputs)):
            made.update(node.outputs)
            found[node.name or ""] = "shape and index arithmetic is never quantized"
    return found


def _masks(draft: Draft) -> dict[str, str]:
    """Nodes that touch values of astronomic size, such as attention masks of -3.4e38."""
    seen = {name: size for name, size in draft.sizes.items() if size >= HUGE}
    huge = {**_huge_constants(draft.model), **seen}
    found: dict[str, str] = {}
    for node in draft.model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name in huge:
                size = huge[value.name]
                found[node.name or ""] = f"'{value.name}' reaches {size:.2g} (a mask): no scale can hold that and data"
    return found


def _huge_constants(model: ir.Model) -> dict[str, float]:
    """Operands of element-wise operators: a mask may not show in the first sample, but its factor does.

    Float16's largest number counts as astronomic: networks in float16 mask with it, and then what is masked is not.
    What such a number is added to, or goes through unchanged, reaches as far.
    """
    found: dict[str, float] = {}
    for node in model.graph:
        reaches = max((found.get(v.name or "", 0.0) for v in node.inputs if v is not None), default=0.0)
        if reaches >= HUGE and node.op_type in CARRIERS:
            found.update((v.name or "", reaches) for v in node.outputs)
        for value in node.inputs if node.op_type in ("Add", "Mul", "Sub", "Where", "Div") else ():
            tensor = ops.constant_of(value)
            if value is not None and tensor is not None and tensor.dtype in ops.FLOATS and tensor.size:
                size = float(np.nanmax(np.abs(tensor.numpy().astype(np.float64))))
                if size >= HUGE:
                    found[value.name or ""] = size
                    if node.op_type != "Div":
                        found[node.outputs[0].name or ""] = size
                elif size == HALF_LARGEST:
                    found.update(dict.fromkeys((value.name or "", node.outputs[0].name or ""), size))
    return found


def _rough_tables(model: ir.Model, target: Target) -> dict[str, str]:
    """Lookup tables whose rows hold outliers beside which int8 leaves little of the rest."""
    rule = target.rule("Gather")
    found: dict[str, str] = {}
    for node in model.graph if rule is not None and rule.weight is not None else []:
        if node.op_type != "Gather" or ops.weight_port(node) is None or ops.weight_axis(node, 0) is None:
            continue
        table = ops.constant_of(node.inputs[0])
        assert table is not None
        assert rule is not None
        assert rule.weight is not None
        rows = table.numpy()[:: max(1, ops.dims_of(table)[0] // TABLE_ROWS)].astype(np.float32)
        quality = sqnr_db(rows, fake_quantize(rows, params_of(rows, rule.weight)))
        if quality < TABLE_SQNR:
            found[node.name or ""] = f"its table has outliers: int8 rows would keep {quality:.0f} dB of it"
    return found


def _float_tails(chosen: Iterable[Unit], plan: Plan) -> dict[str, str]:
    """Activations behind layers whose kernels hand floats on."""
    reason = "its layer hands floats on, as no integer operator reads them"
    return {
        unit.nodes[-1].name or "": reason
        for unit in chosen
        if len(unit.nodes) > 1 and not any(site.value == unit.outputs[0].name for site in plan.sites)
    }


def _inner(model: ir.Model) -> dict[str, str]:
    """Nodes inside If, Loop and Scan bodies."""
    top = set(model.graph)
    reason = "inside the body of a control-flow operator, whose tensors cannot be observed"
    return {node.name or "": reason for node in model.graph.all_nodes() if node not in top}


class _Placer:
    """Sites and groups of the chosen units."""

    def __init__(self, model: ir.Model, target: Target, chosen: Iterable[Unit]) -> None:
        order = {node: i for i, node in enumerate(model.graph)}
        self.units = sorted(chosen, key=lambda unit: order[unit.head])
        self.target = target
        self.makers = {value.name: node for node in model.graph for value in node.outputs}
        self.unit_of = {node: unit for unit in self.units for node in unit.nodes}
        self.parent: dict[str, str] = {}
        self.activations: dict[Site, Quantizer] = {}
        self.constants: dict[Site, Quantizer] = {}

    def plan(self) -> Plan:
        """The plan, without reasons for float nodes."""
        for unit in self.units:
            self._read(unit)
        for unit in self.units:
            self._write(unit)
        groups: dict[int, Quantizer] = {}
        sites: dict[Site, int] = {}
        ids: dict[object, int] = {}
        for site, quantizer in self.activations.items():
            group = ids.setdefault(self._root(site.value), len(ids))
            _put(groups, group, quantizer)
            sites[site] = group
        for root, (scale, zero) in self._fixed().items():
            scheme = groups[ids[root]].scheme
            if zero:
                scheme = replace(scheme, zero_point=ZeroRule.FREE)
            pinned = QParams(scheme, np.array([scale], np.float32), np.array([zero], np.int32))
            groups[ids[root]] = replace(groups[ids[root]], scheme=scheme, params=pinned)
        for site, quantizer in self.constants.items():
            key = site if quantizer.role == "bias" else (site.value, quantizer.scheme)
            group = ids.setdefault(key, len(ids))
            groups.setdefault(group, quantizer)
            sites[site] = group
        return Plan(groups, sites)

    def _fixed(self) -> dict[str, tuple[float, int]]:
        """Groups all of whose makers give the one scale and zero point that the target has for them."""
        found: dict[str, set[tuple[float, int] | None]] = {}
        for site in self.activations:
            maker = self.makers.get(site.value)
            unit = self.unit_of.get(maker) if maker is not None else None
            rule = unit.rule if unit is not None else None
            if rule is None or rule.output != "as_input":
                found.setdefault(self._root(site.value), set()).add(None if rule is None else rule.fixed)
        every = {root: next(iter(fixed)) for root, fixed in found.items() if len(fixed) == 1}
        return {root: fixed for root, fixed in every.items() if fixed is not None}

    def _root(self, value: str) -> str:
        self.parent.setdefault(value, value)
        while self.parent[value] != value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _makes_codes(self, value: ir.Value) -> bool:
        """Whether an integer unit hands this value on as codes, for every reader."""
        node = value.producer()
        unit = self.unit_of.get(node) if node is not None else None
        if unit is None or unit.rule is None or unit.table:
            return False
        if unit.rule.output != "either":
            return True
        readers = [(self.unit_of.get(use.node), use.idx) for use in value.uses()]
        return any(reader is not None and port in reader.ports for reader, port in readers)

    def _read(self, unit: Unit) -> None:
        node, rule, name = unit.head, unit.rule, unit.head.name or ""
        assert rule is not None
        if rule.weight is not None:
            self._weight(node, rule)
        for port in unit.ports:
            value = node.inputs[port]
            assert value is not None
            assert value.name is not None
            site = Site(value.name) if self._makes_codes(value) else Site(value.name, name, port)
            scheme = rule.second if port == 1 and rule.second is not None else rule.data
            _put(self.activations, site, self._quantizer(scheme, f"input of {node.op_type} '{name}'"))
            if rule.output == "as_input":
                for output in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:
                    self.parent[self._root(output.name or "")] = self._root(value.name)
        if rule.weight is None:
            for port, value in enumerate(node.inputs):
                tensor = ops.constant_of(value)
                if value is not None and tensor is not None and tensor.dtype in ops.FLOATS and _operand(node, port):
                    reason = f"constant operand of {node.op_type} '{name}'"
                    self.constants[Site(value.name or "", name, port)] = self._quantizer(rule.data, reason, "weight")

    def _quantizer(self, scheme: Scheme, what: str, role: Role = "activation") -> Quantizer:
        return Quantizer(scheme, f"{self.target.name}: {what}", role)

    def _weight(self, node: ir.Node, rule: OpRule) -> None:
        port = ops.weight_port(node)
        assert rule.weight is not None
        assert port is not None
        axis = ops.weight_axis(node, port) if rule.weight.tiling.axis is not None else None
        scheme = replace(rule.weight, tiling=PER_TENSOR if axis is None else per_channel(axis))
        weight, name = node.inputs[port], node.name or ""
        assert weight is not None
        reason = f"weight of {node.op_type} '{name}'"
        self.constants[Site(weight.name or "", name, port)] = self._quantizer(scheme, reason, "weight")
        bias, bits = ops.bias_of(node), self.target.numerics.bias_bits
        if bias is not None and bits:
            tiling = PER_TENSOR if axis is None else per_channel(0)
            reason = f"bias of {node.op_type} '{name}', scale = input scale * weight scale"
            site = Site(bias.name or "", name, ops.TRAITS[node.op_type].bias or 0)
            self.constants[site] = self._quantizer(Scheme(IntGrid(bits), tiling, rule.weight.scale), reason, "bias")

    def _write(self, unit: Unit) -> None:
        assert unit.rule is not None
        for value in unit.outputs:
            if value.dtype not in ops.FLOATS | {None}:
                continue
            if value.name and self._makes_codes(value) and (value.uses() or value.is_graph_output()):
                reason = f"output of {unit.head.op_type} '{unit.head.name}'"
                self.activations.setdefault(Site(value.name), self._quantizer(unit.rule.data, reason))


def _put(found: dict[K, Quantizer], key: K, quantizer: Quantizer) -> None:
    """Put a quantizer where there is none, or one whose zero point is free though a reader needs it at 0."""
    held = found.get(key)
    if held is None or (quantizer.scheme.symmetric and not held.scheme.symmetric):
        found[key] = quantizer


def _operand(node: ir.Node, port: int) -> bool:
    """Whether a constant at this port is data: not the scales of a Resize, the bounds of a Clip or a Pad's filling."""
    return node.op_type in ("Add", "Mul", "Sub", "Concat", "PRelu")
