"""Clamps: Relu, Clip and Min with constant bounds, and whether codes make them idle."""

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.weights import array_at
from halfeven.numerics.scheme import QParams

CLAMPS = frozenset({"Relu", "Clip", "Min"})


def clamp_bounds(node: ir.Node) -> tuple[float, float]:
    """Lower and upper bound of a Relu, Clip or Min: infinite where there is none, NaN where it is not constant.

    Of a Min with a bound for each channel, the least.
    """
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type == "Min":
        bounds = [_bound(node, port, np.nan) for port in range(1, len(node.inputs))]
        return float("-inf"), float(np.min(bounds)) if bounds else np.nan
    low = _bound(node, 1, float(ops.attribute(node, "min", -np.inf)))
    return low, _bound(node, 2, float(ops.attribute(node, "max", np.inf)))


def _bound(node: ir.Node, port: int, absent: float) -> float:
    if port >= len(node.inputs) or node.inputs[port] is None:
        return absent
    array = array_at(node, port)
    return float("nan") if array is None or array.size == 0 else float(array.min())


def idle(node: ir.Node, params: QParams) -> bool:
    """Whether every value that the codes of `params` express lies within the clamp's bounds, to a relative 1e-6."""
    grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    low, high = clamp_bounds(node)
    slack = 1e-6 * scale * (grid.high - grid.low)
    return (grid.low - zero) * scale >= low - slack and (grid.high - zero) * scale <= high + slack


def clamp_limits(model: ir.Model) -> dict[str, float]:
    """The finite upper bounds of values that clamps make, by value name; of clamps in a row, the least."""
    found: dict[str, float] = {}
    for node in model.graph:
        if node.op_type in CLAMPS and node.domain == "":
            before = found.get(node.inputs[0].name or "", float("inf")) if node.inputs[0] is not None else float("inf")
            limit = min(before, clamp_bounds(node)[1])
            if 0 < limit < float("inf"):
                found[node.outputs[0].name or ""] = limit
    return found
