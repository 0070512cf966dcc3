"""The scale of a quantized bias: that of the accumulator it is added to."""

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.graph import ops
from halfeven.graph.plan import Plan, Quantizer
from halfeven.numerics.scheme import QParams


def bias_params(plan: Plan, node: ir.Node, quantizer: Quantizer) -> QParams:
    """Parameters of a bias: its own if set, else the scale f32(input scale * weight scale), shape (channels,) or (1,).

    Raises:
        UnsupportedByTarget: it has none of its own, and the input or the weight of its layer has none either.
    """
    if quantizer.params is not None:
        return quantizer.params
    traits, name = ops.TRAITS[node.op_type], node.name or ""
    found = []
    for port in (traits.data, traits.weight):
        value = node.inputs[port]
        seen = plan.seen_by(value.name or "", name, port) if value is not None else None
        if seen is None or seen.params is None:
            raise UnsupportedByTarget(
                f"{node.op_type} '{name}': its bias is quantized, but not its input {port}. Quantize both, or leave "
                "the bias out of the plan."
            )
        found.append(seen.params.scale.ravel())
    scale = (found[0] * found[1]).astype(np.float32)
    return QParams(quantizer.scheme, scale, np.zeros(scale.shape, np.int32))
