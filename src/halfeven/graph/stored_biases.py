"""Biases that a device stores on a grid of their own, and shifts to the accumulator's (`vitis-dpu`).

    scale = max(least power of two that covers the bias, input scale * weight scale)

A finer grid than the accumulator's would keep what the shift drops; so none is chosen. Other devices take biases in
int32 at input scale * weight scale, which leaves nothing to choose.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.biases import bias_params
from halfeven.graph.plan import Plan
from halfeven.graph.weights import array_at
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import QParams, ScaleRule

METHOD = "minmax"


def fit_biases(model: ir.Model, plan: Plan) -> Plan:
    """The plan with parameters for each bias of a grid of its own; what was pinned stays, and what lacks a weight's."""
    nodes = {node.name or "": node for node in model.graph}
    for site, group in sorted(plan.sites.items()):
        quantizer = plan.groups[group]
        pinned = quantizer.params is not None and quantizer.method != METHOD
        if quantizer.role != "bias" or quantizer.scheme.scale is not ScaleRule.POWER_OF_TWO or pinned:
            continue
        node = nodes[site.consumer]
        seen = [plan.seen_by(v.name or "", node.name or "", i) for i, v in enumerate(node.inputs[:2]) if v is not None]
        if any(other is None or other.params is None for other in seen):
            continue
        bias = array_at(node, ops.TRAITS[node.op_type].bias or 0)
        if bias is None:
            continue
        covering = params_of(bias.astype(np.float32), quantizer.scheme).scale
        accumulator = bias_params(plan, node, replace(quantizer, params=None)).scale.max()
        scale = np.maximum(covering, accumulator).astype(np.float32)
        params = QParams(quantizer.scheme, scale, np.zeros(scale.shape, np.int32))
        plan = plan.with_group(group, replace(quantizer, params=params, method=METHOD))
    return plan
