"""Weights of 7 bits for some layers, so that no sum of two products leaves 16 bits on x86 without VNNI.

    codes of a weight    -63..63, symmetric, stored as int8
    two products         255 * 63 * 2 = 32130 < 2**15        (numerics.overflow)

ONNX Runtime calls it `reduce_range`. The grid is narrow, as that of 8 bits is: a range maps to it exactly. Scale,
rounding by second moments and bias correction follow from the grid; the other layers keep what they have. A weight of
fewer bits keeps them, and a table whose rows are looked up is not multiplied.
"""

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics.grid import IntGrid
from halfeven.steps.patterns import named

REDUCED = IntGrid(7, narrow=True)
FLAG = "--reduce-range"


def with_reduced_range(model: ir.Model, plan: Plan, patterns: Sequence[str]) -> Plan:
    """The plan with weights of 7 bits in the layers that the patterns fit.

    A weight that other layers share with these keeps its 8 bits for them.

    Raises:
        BadOption: a pattern fits no layer with int8 weights.
    """
    if not patterns:
        return plan
    layers = {node.name or "": node for node in model.graph}
    sites = {site: g for site, g in plan.sites.items() if _int8_weight(layers.get(site.consumer), site, plan.groups[g])}
    holders = {site.consumer for site in sites}
    known = named(model.graph, patterns, FLAG)
    chosen = named((layers[n] for n in known if n in holders), patterns, FLAG, "matches no layer with int8 weights")
    kept = {group for site, group in sites.items() if site.consumer not in chosen}
    groups, moved = dict(plan.groups), dict(plan.sites)
    for site, group in sites.items():
        if site.consumer in chosen:
            own = group + len(plan.groups) if group in kept else group
            moved[site], groups[own] = own, _reduced(plan.groups[group], chosen[site.consumer])
    return replace(plan, groups=groups, sites=moved)


def _int8_weight(node: ir.Node | None, site: Site, quantizer: Quantizer) -> bool:
    """Whether a site is where a layer reads the weights that it multiplies by."""
    if node is None or node.op_type == "Gather" or quantizer.role != "weight":
        return False
    grid, ports = quantizer.scheme.grid, (1, 2) if node.op_type in ops.RECURRENT_OPS else (ops.weight_port(node),)
    return site.port in ports and (grid.bits, grid.signed) == (8, True)


def _reduced(quantizer: Quantizer, pattern: str) -> Quantizer:
    scheme = replace(quantizer.scheme, grid=REDUCED)
    return replace(quantizer, scheme=scheme, reason=f"{quantizer.reason}, 7 bits by {FLAG} '{pattern}'")
