"""Biases as a target takes them, where the plan was made for another.

    plan      target    what becomes of a bias
    codes     float     real: code * scale in float32, as DequantizeLinear computes it
    float     codes     codes of scale input scale * weight scale, at each layer whose data and weight are codes
    codes     codes     as it is; `targets.check` says where the bits differ

A bias stays float, and a note says so, where a code would be too large for the bits or scales are not those of its
channels.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.graph import ops
from halfeven.graph.biases import bias_params
from halfeven.graph.edit import add_initializer, drop_unread, unused, value_names
from halfeven.graph.plan import DYNAMIC, Plan, Quantizer, Site
from halfeven.graph.stored_biases import fit_biases
from halfeven.graph.weights import array_at
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import PER_TENSOR, Scheme, per_channel
from halfeven.targets.target import Target
from halfeven.wording import counted


def biases_as_target_takes(model: ir.Model, plan: Plan, target: Target) -> tuple[ir.Model, Plan, list[str]]:
    """Model and plan with biases of the target's kind, and the sentences that say what was done; both are left alone.

    Raises:
        UnsupportedByTarget: a bias is codes, but what its layer reads is not, so that it has no scale.
    """
    if target.numerics.bias_bits == 0:
        return _made_real(model, plan, target)
    plan, said = _coded(model, plan, target)
    return model, plan, said


def _made_real(model: ir.Model, plan: Plan, target: Target) -> tuple[ir.Model, Plan, list[str]]:
    """The real numbers of all biases that are codes."""
    sites = sorted(site for site, group in plan.sites.items() if plan.groups[group].role == "bias")
    if not sites:
        return model, plan, []
    copy = model.clone()
    nodes, names = {node.name or "": node for node in copy.graph}, value_names(copy)
    kind = str(plan.groups[plan.sites[sites[0]]].scheme.grid)
    for site in sites:
        node, quantizer = nodes[site.consumer], plan.groups[plan.sites[site]]
        array, value = array_at(node, site.port), node.inputs[site.port]
        assert array is not None
        assert value is not None
        params = bias_params(plan, node, quantizer)
        real = dequantize(quantize(array.astype(np.float32), params), params)
        if real.tobytes() == array.tobytes():
            continue
        name = unused(f"{site.value}_real", names)
        node.replace_input_with(site.port, add_initializer(copy.graph, name, ir.tensor(real, name=name)))
    drop_unread(copy.graph)
    groups = {plan.sites[site] for site in sites}
    kept = {group: quantizer for group, quantizer in plan.groups.items() if group not in groups}
    others = {site: group for site, group in plan.sites.items() if group not in groups}
    said = f"{counted(len(sites), f'{kind} bias tensor')} made real, code * scale: {target.name} takes biases in float"
    return copy, Plan(kept, others, plan.floats, plan.scaling), [said]


def _coded(model: ir.Model, plan: Plan, target: Target) -> tuple[Plan, list[str]]:
    """Codes for all float biases of layers on codes."""
    bits = target.numerics.bias_bits
    groups, sites = dict(plan.groups), dict(plan.sites)
    coded, left = 0, []
    for node, site, scheme in _float_biases(model, plan, target):
        reason = f"bias of {node.op_type} '{node.name}', scale = input scale * weight scale"
        quantizer = Quantizer(scheme, reason, "bias")
        if not _fits(node, plan, quantizer):
            left.append(f"'{site.value}'")
            continue
        group = max(groups, default=-1) + 1
        groups[group], sites[site], coded = quantizer, group, coded + 1
    said = []
    if coded:
        tensors = counted(coded, "float bias tensor")
        said.append(f"{tensors} coded in int{bits} at input scale * weight scale, as {target.name} takes biases")
    if left:
        said.append(
            f"{counted(len(left), 'bias tensor')} left float: no int{bits} codes at input scale * weight scale hold "
            f"{'it' if len(left) == 1 else 'them'}: {', '.join(left[:3])}"
        )
    return fit_biases(model, Plan(groups, sites, plan.floats, plan.scaling)) if coded else plan, said


def _float_biases(model: ir.Model, plan: Plan, target: Target) -> Iterator[tuple[ir.Node, Site, Scheme]]:
    """The layers on codes whose bias is float, where it is, and its scheme."""
    for node in model.graph:
        rule, port, bias = target.rule(node.op_type), ops.weight_port(node), ops.bias_of(node)
        if node.domain or rule is None or rule.weight is None or port is None or ops.constant_of(bias) is None:
            continue
        assert bias is not None
        name, at = node.name or "", ops.TRAITS[node.op_type].bias or 0
        seen = [
            plan.seen_by(value.name or "", name, p)
            for p in (ops.TRAITS[node.op_type].data, port)
            if (value := node.inputs[p]) is not None
        ]
        static = all(q is not None and q.params is not None and q.method != DYNAMIC for q in seen)
        if bias.dtype != ir.DataType.FLOAT or not static or plan.seen_by(bias.name or "", name, at) is not None:
            continue
        weight = seen[-1]
        tiling = PER_TENSOR if weight is None or not weight.scheme.tiling.tiles else per_channel(0)
        site = Site(bias.name or "", name, at)
        yield node, site, Scheme(IntGrid(target.numerics.bias_bits), tiling, rule.weight.scale)


def _fits(node: ir.Node, plan: Plan, quantizer: Quantizer) -> bool:
    """Whether a bias has a code for each number at the scale of the accumulator."""
    array = array_at(node, ops.TRAITS[node.op_type].bias or 0)
    try:
        scale = bias_params(plan, node, quantizer).scale.astype(np.float64)
    except UnsupportedByTarget:
        return False
    if array is None or array.ndim != 1 or scale.size not in (1, array.size) or not (scale > 0).all():
        return False
    if quantizer.scheme.grid.bits < 32:  # of a scale of its own: see `graph.stored_biases`
        return True
    return bool((np.abs(array.astype(np.float64)) <= scale * quantizer.scheme.grid.high).all())
