"""Regions: which nodes become integer, as a minimum cut of measured costs.

Each unit (a layer with the activation that fuses into it, or one operator) is integer or float. The plan pays

    its own cost in the world it is in                       (targets.costs)
    a QuantizeLinear for a float value that an integer unit reads
    a DequantizeLinear for an integer value that a float unit, or the caller, reads

and the cheapest assignment of all is a minimum cut between "integer" and "float": exact, not greedy. So a lone Add
between float operators stays float, an Add between convolutions becomes integer, and a layer too small to pay for its
borders is left alone, each with the figures as the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.cut import INFINITE, MinCut
from halfeven.targets.target import Cost, OpRule, Target

Shapes = Mapping[str, tuple[int, ...]]
INTEGER, FLOAT = "integer", "float"
SIZE_VALUE = 0.05  # nanoseconds that a byte less of weights is worth: what is a draw in speed goes to the smaller file
PASSIVE_PENALTY = 1.02  # an operator without weights must save something to be worth its rounding errors
ESTIMATED = "does not pay, as estimated without measurements"
CODED = "already quantized in the source model; left as it is"


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes that are integer or float together; `rule` None means that they must stay float, for `reason`."""

    nodes: tuple[ir.Node, ...]
    rule: OpRule | None
    reason: str = ""

    @property
    def head(self) -> ir.Node:
        """The node that reads the unit's inputs."""
        return self.nodes[0]

    @property
    def outputs(self) -> Sequence[ir.Value]:
        """What the unit hands on."""
        return self.nodes[-1].outputs

    @property
    def table(self) -> bool:
        """True when it looks constant rows up."""
        return self.head.op_type == "Gather" and ops.weight_port(self.head) is not None

    @property
    def layer(self) -> bool:
        """True when it multiplies by constant weights."""
        return ops.is_layer(self.head)

    @property
    def ports(self) -> list[int]:
        """The inputs that carry codes when the unit is integer."""
        if self.table:
            return []
        allowed = None if self.rule is None else self.rule.ports
        ports = [port for port in ops.data_ports(self.head) if allowed is None or port in allowed]
        if self.rule is not None and self.rule.residual:
            own = [port for port in ports if _made_for(self.head, port)]
            ports = [port for port in ports if port not in own[-1:]]
        return ports


def _made_for(node: ir.Node, port: int) -> bool:
    """Whether a layer makes what the node reads at `port`, for it alone."""
    value = node.inputs[port]
    maker = value.producer() if value is not None else None
    return value is not None and maker is not None and ops.is_layer(maker) and len(value.uses()) == 1


def make_units(model: ir.Model, target: Target, reasons: Mapping[str, str]) -> list[Unit]:
    """Split the top graph's nodes into units; those of `reasons` must stay float whatever the table says."""
    units, taken = [], set()
    for node in model.graph:
        if node in taken:
            continue
        rule, reason = (None, reasons[node.name or ""]) if node.name in reasons else _rule(node, target)
        nodes = [node]
        if rule is not None and (follower := _fused(node, rule)) is not None and follower.name not in reasons:
            nodes.append(follower)
            taken.add(follower)
        units.append(Unit(tuple(nodes), rule, reason))
    return units


def _rule(node: ir.Node, target: Target) -> tuple[OpRule | None, str]:
    """The target's row for a node, or why there is none."""
    op = node.op_type
    if op in ops.QUANTIZED_OPS or ops.has_codes(node):
        return None, CODED
    if node.domain != "":
        return None, f"operator {node.domain}.{op} is not in the target's table"
    if op in ops.RECURRENT_OPS and target.recurrent:
        return None, target.recurrent.format(op=op)
    if op in ops.SHAPE_OPS or (not ops.data_ports(node) and ops.weight_port(node) is None):
        return None, "shape and index arithmetic is never quantized"
    rule = target.rule(op)
    if rule is None:
        return None, f"{target.name} has no integer kernel for {op}"
    if op in ops.COMPUTE_OPS and ops.weight_port(node) is None:
        rule = target.product(op) if len(ops.data_ports(node)) == 2 else None
        if rule is None:
            return None, f"{op} multiplies two activations: {target.name} gains nothing from it in integers"
    for name, allowed in rule.where.items():
        if (found := ops.attribute(node, name, 0) or None) not in allowed:
            wanted = f"without {name}" if allowed[0] is None else f"with {name} = {allowed[0]}"
            return None, f"{target.name} runs {op} in integers only {wanted}, here {found}"
    return _fits(node, rule, target)


def _fits(node: ir.Node, rule: OpRule, target: Target) -> tuple[OpRule | None, str]:
    """The row, when the node's operands are what its kernel takes."""
    op = node.op_type
    dtypes = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype in ops.FLOATS}
    if dtypes - {ir.DataType.FLOAT}:
        return None, f"computes in {min(d.name for d in dtypes - {ir.DataType.FLOAT})}; only float32 is quantized"
    if op == "Gather" and rule.weight is None:
        if ops.weight_port(node) is not None:
            return None, f"{target.name} looks rows up in tables of floats"
    elif op in ops.TRAITS and rule.second is None:
        if op == "MatMul" and ops.weight_port(node) == 0:
            return None, "the constant is on the left of MatMul, where the runtime fuses no per-channel weight"
        if op == "Gemm" and (why := _odd_gemm(node)):
            return None, why
        if (bias := ops.bias_of(node)) is not None and ops.constant_of(bias) is None:
            return None, "its bias is computed at run time"
    elif rule.output == "as_input" and (why := _odd_filling(node)):
        return None, why
    elif not rule.constants and len(ops.data_ports(node)) < 2:
        return None, f"{op} with a constant: {target.name} fuses it into its neighbour in float"
    elif op == "Div" and ops.constant_of(node.inputs[1]) is None:
        return None, f"{target.name} divides codes by constants only"
    elif rule.ports is None and op in ("Add", "Mul", "Sub") and not ops.data_ports(node):
        return None, "constant arithmetic"
    return rule, ""


def _odd_filling(node: ir.Node) -> str:
    """Why constants among moved codes forbid it; empty when there are none, or a Pad's is zero."""
    held = [(port, t) for port, v in enumerate(node.inputs) if (t := ops.constant_of(v)) and t.dtype in ops.FLOATS]
    if node.op_type == "Concat" and held:
        return "a constant among the tensors that share one scale"
    if node.op_type == "Pad" and any(port == 2 and t.numpy().any() for port, t in held):
        return "it pads with another value than zero"
    return ""


def _odd_gemm(node: ir.Node) -> str:
    """Why a Gemm has no integer kernel; empty when it has one."""
    if ops.attribute(node, "transA", 0) or any(ops.attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return "Gemm with alpha, beta or transA other than the default has no integer kernel"
    bias, weight = ops.constant_of(ops.bias_of(node)), ops.constant_of(node.inputs[1])
    if bias is None or weight is None:
        return ""
    outputs = ops.dims_of(weight)[0 if ops.attribute(node, "transB", 0) else 1]
    if ops.dims_of(bias) != (outputs,):
        return f"its bias has shape {ops.dims_of(bias)}; the integer kernel takes ({outputs},)"
    return ""


def _fused(node: ir.Node, rule: OpRule) -> ir.Node | None:
    """The activation that the kernel absorbs into its output's range: the only reader of the only output."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(node.outputs) != 1 or len(uses) != 1 or value.is_graph_output() or not rule.fuses:
        return None
    follower = uses[0].node
    same_graph = follower.graph is node.graph
    constant = all(ops.constant_of(v) is not None for v in follower.inputs[1:] if v is not None)
    known = follower.domain == "" and follower.op_type in rule.fuses
    return follower if known and uses[0].idx == 0 and same_graph and constant else None


def choose(units: Sequence[Unit], target: Target, shapes: Shapes, prefer: str) -> tuple[set[Unit], dict[Unit, str]]:
    """The integer units, and why each of the others stays float."""
    cut = MinCut()
    makers: dict[ir.Value, Unit] = {value: unit for unit in units for value in unit.outputs}
    readers: dict[ir.Value, list[Unit]] = {}
    for unit in units:
        floating, integral = unit_costs(unit, target, shapes)
        if unit.rule is None:
            cut.add(unit, FLOAT, INFINITE)
        else:
            forced = prefer == "size" and ops.weight_port(unit.head) is not None
            cut.add(INTEGER, unit, INFINITE if forced else floating)
            cut.add(unit, FLOAT, integral)
        for port in unit.ports:
            readers.setdefault(unit.head.inputs[port], []).append(unit)  # type: ignore[arg-type]
        for value in _subgraph_reads(unit):
            readers.setdefault(value, []).append(unit)
    for value in {**dict.fromkeys(makers), **dict.fromkeys(readers)}:
        maker = makers.get(value, FLOAT)
        native = isinstance(maker, Unit) and maker.rule is not None and maker.rule.output == "either"
        size = prod(shapes.get(value.name or "", (1,)))
        users: list[Unit | str] = [*readers.get(value, [])] + ([FLOAT] if value.is_graph_output() else [])
        for user in users:
            cut.add(user, ("q", value), INFINITE)
            cut.add(("dq", value), user, INFINITE)
        cut.add(("q", value), maker, 0 if native else Work(0, size, 0, 0).cost(target.costs.quantize))
        cut.add(maker, ("dq", value), 0 if native else Work(0, size, 0, 0).cost(target.costs.dequantize))
    side = cut.source_side(INTEGER, FLOAT)
    chosen = {unit for unit in units if unit in side}
    return chosen, {u: u.reason or _too_dear(u, target, shapes) for u in units if u not in chosen}


def _subgraph_reads(unit: Unit) -> list[ir.Value]:
    """Outer values that the bodies of a unit's control flow read."""
    found = []
    for node in unit.nodes:
        for attr in node.attributes.values():
            graphs = [attr.value] if attr.type == ir.AttributeType.GRAPH else []
            for graph in graphs:
                inside = {v for inner in graph.all_nodes() for v in inner.outputs} | set(graph.inputs)
                found += [v for inner in graph.all_nodes() for v in inner.inputs if v is not None and v not in inside]
    return found


def kind_of(node: ir.Node) -> str:
    """The row of a cost table."""
    if ops.is_depthwise(node):
        return "Conv/depthwise"
    weight = ops.constant_of(node.inputs[1]) if node.op_type == "Conv" else None
    return "Conv/spatial" if weight is not None and prod(ops.dims_of(weight)[2:]) > 1 else node.op_type


def unit_costs(unit: Unit, target: Target, shapes: Shapes) -> tuple[int, int]:
    """What the unit costs in float and in integer, in picoseconds."""
    costs, kind = target.costs, kind_of(unit.head)
    work = Work.of(unit.head, dict(shapes))
    floating = work.cost(costs.floats.get(kind, costs.floats[""])) + int(1000 * SIZE_VALUE * 3 * work.weights)
    integral = work.cost(costs.integers.get(kind, costs.integers[""]))
    return floating, integral if unit.layer else int(integral * PASSIVE_PENALTY)


@dataclass(frozen=True)
class Work:
    """How much there is to do in one run of a node."""

    macs: int
    elements: int
    weights: int
    taps: int

    @classmethod
    def of(cls, node: ir.Node, shapes: dict[str, tuple[int, ...]]) -> "Work":
        """Counted from the recorded shapes; what is not known counts as small."""
        elements = max((prod(shapes.get(v.name or "", (1,))) for v in node.outputs), default=1)
        if node.op_type == "GlobalAveragePool":
            elements = prod(ops.shape_of(node.inputs[0], shapes) or (1,))
        port = ops.weight_port(node)
        weight = ops.shape_of(node.inputs[port], shapes) if port is not None else None
        spatial = weight is not None and kind_of(node) == "Conv/spatial"
        taps = elements // weight[0] * prod(weight[2:-1]) if spatial and weight else 0
        return cls(ops.multiply_adds(node, shapes), elements, prod(weight) if weight else 0, taps)

    def cost(self, cost: Cost) -> int:
        """Picoseconds."""
        work = cost.mac * self.macs + cost.element * self.elements + cost.weight * self.weights + cost.tap * self.taps
        return int((work + cost.call) * 1000)


def _too_dear(unit: Unit, target: Target, shapes: Shapes) -> str:
    if not target.costs.measured:
        basis = f"{ESTIMATED} on {target.name}: a conversion is taken to cost as much as an operator"
        return f"{basis}, a layer ten times that; --prefer size quantizes it all the same" if unit.layer else basis
    floating, integral = unit_costs(unit, target, shapes)
    figures = f"{floating / 1e6:.3g} us in float, {integral / 1e6:.3g} us in integers before quantize and dequantize"
    if unit.layer:
        return f"does not pay: {figures}; --prefer size quantizes it all the same"
    return f"does not pay next to float operators: {figures}"
