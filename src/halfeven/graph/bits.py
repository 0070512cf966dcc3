"""Fewer bits, or more, for the inner layers of a plan; the first and the last layer keep theirs.

    first layer     no layer with weights comes before it        its weights, and what it reads
    last layer      no layer with weights comes after it         its weights, what it reads and what comes behind it
    inner           all else: the weights of layers, and the activations between them

The first layer sees the data and the last one makes the scores; both are few multiply-adds and lose most, so that they
stay at 8 bits in what is published (Zhou et al. 2016, arXiv:1606.06160, section 2.7; Esser et al. 2020,
arXiv:1902.08153, section 2.3). Constant operands that are no layer's weights stay as they are, too.

Grids of fewer bits are full, also where the target's is narrow: of the four codes of 2 bits none is given away.
Devices run 8-bit codes, so a file holds codes of fewer bits in 8. A weight simply never has the others. An activation
is rounded to 8 bits, clipped to the values of its codes, and given 8-bit codes again, with one scale all the while:

    layer -> Q -> DQ -> Clip -> Q -> DQ -> readers        clip(round(r)) = round(clip(r)), as the ends are whole

so that the layer has codes on both sides and runs as integers. What a graph is fed is clipped alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.graph import ops
from halfeven.graph.edit import add_initializer, rename, unused, value_names
from halfeven.graph.plan import Plan, Site
from halfeven.graph.weight_codes import WEIGHT_CODES
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import Scheme


@dataclass(frozen=True)
class Bits:
    """Bits of codes that are trained: of inner weights, inner activations, and of the outer layers; None: as planned.

    Raises:
        BadOption: there are no such codes.
    """

    weights: int | str | None = None
    activations: int | None = None
    outer: int | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHT_CODES and self.weights not in (None, *range(2, 17)):
            raise BadOption(f"weight_bits {self.weights!r}: choose 1 to 16, 'binary' (as 1), 'ternary' or 'log2'.")
        for name, bits in (("activation_bits", self.activations), ("first_and_last", self.outer)):
            if bits not in (None, *range(2, 17)):
                raise BadOption(f"{name} {bits!r}: choose 2 to 16.")


Bounds = Mapping[int, tuple[np.float32, np.float32]]


@dataclass(frozen=True)
class Parts:
    """Groups of a plan: weights of layers and activations, inner ones and those of the first and last layer."""

    weights: frozenset[int]
    activations: frozenset[int]
    outer_weights: frozenset[int]
    outer_activations: frozenset[int]


def parts_of(model: ir.Model, plan: Plan) -> Parts:
    """Which groups are inner, in a model whose nodes are in order and named."""
    layers = {node: groups for node in model.graph if (groups := _weight_groups(node, plan))}
    before, after = _reached(model, layers)
    first = {node for node in layers if not any(v in before for v in node.inputs)}
    last = {node for node in layers if not any(v in after for v in node.outputs)}
    outer = {group for node in first | last for group in layers[node]}
    ends = {value.name for node in last for value in node.inputs if value is not None}
    values = {v.name: v for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))}
    activations = {g: plan.members(g) for g, q in plan.groups.items() if q.role == "activation"}
    edge = {
        group
        for group, sites in activations.items()
        for site in sites
        if (value := values.get(site.value)) is None or site.value in ends or value not in before or value not in after
    }
    every = {group for groups in layers.values() for group in groups}
    return Parts(frozenset(every - outer), frozenset(set(activations) - edge), frozenset(outer), frozenset(edge))


def _weight_groups(node: ir.Node, plan: Plan) -> set[int]:
    ports = [1, 2] if node.op_type in ops.RECURRENT_OPS else [ops.weight_port(node)]
    sites = (plan.sites.get(Site(node.inputs[p].name or "", node.name or "", p)) for p in ports if p is not None)  # type: ignore[union-attr]
    return {group for group in sites if group is not None and plan.groups[group].role == "weight"}


def _reached(model: ir.Model, layers: Mapping[ir.Node, set[int]]) -> tuple[set[ir.Value], set[ir.Value]]:
    """The values with a layer somewhere before them, and those with one somewhere behind."""
    before: set[ir.Value] = set()
    after: set[ir.Value] = set()
    nodes = list(model.graph)
    for node in nodes:
        if node in layers or any(v in before for v in node.inputs if v is not None):
            before.update(node.outputs)
    for node in reversed(nodes):
        if node in layers or any(v in after for v in node.outputs):
            after.update(v for v in node.inputs if v is not None)
    return before, after


def with_bits(model: ir.Model, plan: Plan, bits: Bits) -> Plan:
    """The plan with the bits of its groups changed; those that change lose their parameters, to be calibrated anew.

    Weights that get codes other than integers (`graph.weight_codes`) stay as they are.
    """
    parts, groups = parts_of(model, plan), dict(plan.groups)
    whole = bits.weights if isinstance(bits.weights, int) and bits.weights > 1 else None
    asked = {
        **dict.fromkeys(parts.weights, whole),
        **dict.fromkeys(parts.activations, bits.activations),
        **dict.fromkeys(parts.outer_weights | parts.outer_activations, bits.outer),
    }
    for group, count in asked.items():
        quantizer = groups[group]
        if count is not None and count != quantizer.scheme.grid.bits:
            groups[group] = replace(quantizer, scheme=in_bits(quantizer.scheme, count), params=None, method="")
    return replace(plan, groups=groups)


def in_bits(scheme: Scheme, bits: int) -> Scheme:
    """The scheme with codes of `bits` bits."""
    return replace(scheme, grid=IntGrid(bits, signed=scheme.grid.signed, narrow=scheme.grid.narrow and bits >= 8))


def stored_grid(grid: IntGrid) -> IntGrid:
    """The grid of the type in which weights are stored: of 5 to 7 bits in 8, of which they never use the ends.

    Codes of 4 bits and fewer have a type of their own.
    """
    return IntGrid(8, grid.signed, narrow=grid.signed) if 4 < grid.bits < 8 else grid


def clip_wires(model: ir.Model, plan: Plan, bounds: Bounds) -> Plan:
    """Put a Clip in front of the quantizers of some groups; the model is changed, and the plan for it given back.

    Raises:
        UnsupportedByTarget: a value is seen through a quantizer that clips and through another that does not.
    """
    names, sites = value_names(model), dict(plan.sites)
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    for value in values:
        name = value.name or ""
        groups = {group for site, group in sites.items() if site.value == name}
        found = {bounds.get(group) for group in groups}
        if found <= {None}:
            continue
        if len(found) > 1:
            raise UnsupportedByTarget(
                f"'{name}' is read with codes of different bits, of which one file holds but one. Give its readers the "
                "same activation_bits."
            )
        (ends,) = found
        assert ends is not None
        new = _clip(model, value, ends, names)
        if value.is_graph_input():
            moved = {s: g for s, g in sites.items() if s.value == name}
            sites = {s: g for s, g in sites.items() if s not in moved}
            sites.update({Site(new.name or "", s.consumer, s.port): g for s, g in moved.items()})
        else:
            sites[Site(value.name or "")] = min(groups)
    return replace(plan, sites=sites)


def _clip(model: ir.Model, value: ir.Value, ends: tuple[np.float32, np.float32], names: set[str]) -> ir.Value:
    """A Clip behind a value, for all its readers; it takes over the name, unless that is an input's."""
    name, graph = value.name or "", model.graph
    limits = []
    for end, what in zip(ends, ("low", "high"), strict=True):
        own = unused(f"{name}_{what}", names)
        limits.append(add_initializer(graph, own, ir.tensor(np.array(end, np.float32), name=own)))
    uses = [(use.node, use.idx) for use in value.uses()]
    other = unused(f"{name}_clipped" if value.is_graph_input() else f"{name}_unclipped", names)
    node = ir.Node("", "Clip", [value, *limits], num_outputs=1, name=unused(f"{name}_codes_clip", names))
    new = node.outputs[0]
    new.type, new.shape = value.type, value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
        new.name = other
    else:
        producer.append(node)
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = new
        rename(value, other)
        new.name = name
    for reader, port in uses:
        reader.replace_input_with(port, new)
    return new
