"""Conditions under which a machine has an integer kernel: of types, clamps, attributes and neighbours of an operator.

ONNX Runtime removes a Relu or Clip that QuantizeLinear's codes make idle, to an absolute 2**-23; any other keeps the
layer before it real. Source: onnxruntime/core/optimizer/qdq_transformer/clip_quantizelinear.cc, relu_quantizelinear.cc.
"""

from collections.abc import Collection
from typing import Any

from halfeven.graph.network import BORDERS, Network, Op, Tensor
from halfeven.graph.pairs import same
from halfeven.numerics.grid import INT32, IntGrid
from halfeven.run.integer.machine import Condition, operand

SLACK = 2.0**-23


def _grid(tensor: Tensor | None) -> IntGrid | None:
    return None if tensor is None or tensor.params is None else tensor.params.scheme.grid


def types(*rows: tuple[IntGrid, ...], output: bool = True) -> Condition:
    """The first operands have the grids of one of the rows; the first output, if coded, that of the first operand."""

    def holds(op: Op, _: Network) -> bool:
        found = [_grid(t) for t in op.inputs]
        made = _grid(op.outputs[0])
        return any(found[: len(row)] == list(row) and (not output or made is None or made == row[0]) for row in rows)

    return holds


def all_of(*grids: IntGrid) -> Condition:
    """All operands and outputs are codes of one of these grids, the same."""

    def holds(op: Op, _: Network) -> bool:
        return any(all(_grid(t) == grid for t in (*op.inputs, *op.outputs)) for grid in grids)

    return holds


def explicit(op: Op, _: Network) -> bool:
    """The file has the operator on codes: nothing else decides on its kernel."""
    return op.explicit


def coded_output(op: Op, _: Network) -> bool:
    """The outputs are codes."""
    return all(t.coded for t in op.outputs)


def real_output(op: Op, network: Network) -> bool:
    """The only output is real, and nothing turns it into codes."""
    readers = network.readers(op.outputs[0].name)
    return len(op.outputs) == 1 and not op.outputs[0].coded and not any(r.kind in BORDERS for r in readers)


def idle_clamp(op: Op, _: Network) -> bool:
    """The output's codes express nothing outside the clamp."""
    params = op.outputs[0].params
    if op.clamp is None or params is None:
        return op.clamp is None
    grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    low, high = (grid.low - zero) * scale, (grid.high - zero) * scale
    return op.clamp[0] - low <= SLACK and high - op.clamp[1] <= SLACK


def one_scale(*ports: int) -> Condition:
    """These operands, if coded, and the output have one scale."""

    def holds(op: Op, _: Network) -> bool:
        seen = [*(operand(op, port) for port in ports), op.outputs[0]]
        return all(t is None or t.params is None or t.params.scale.size == 1 for t in seen)

    return holds


def same_params(op: Op, _: Network) -> bool:
    """Codes keep their meaning: all coded operands and outputs share their parameters, and the first is coded."""
    first = op.inputs[0]
    if first is None or first.params is None or op.clamp is not None:
        return False
    others = [t for t in op.inputs[1:] if t is not None and t.params is not None]
    return all(t.params is not None and same(first.params, t.params) for t in (*others, *op.outputs))


def coded_bias(port: int = 2) -> Condition:
    """The bias is left out, int32 codes, or a constant of real numbers, which the runtime turns into codes."""

    def holds(op: Op, _: Network) -> bool:
        bias = operand(op, port)
        return bias is None or (bias.data is not None if bias.params is None else _grid(bias) == INT32)

    return holds


def no_real_bias(op: Op, _: Network) -> bool:
    """The bias is left out or int32 codes."""
    bias = operand(op, 2)
    return bias is None or _grid(bias) == INT32


def attribute(name: str, default: Any, allowed: Collection[Any]) -> Condition:
    """An attribute has one of these values."""
    return lambda op, _: op.attributes.get(name, default) in allowed


def spatial(*ranks: int) -> Condition:
    """The first operand is known to have this many spatial axes, or its weight is."""

    def holds(op: Op, _: Network) -> bool:
        shapes = [t.shape for t in op.inputs[:2] if t is not None and t.shape is not None]
        return any(len(shape) - 2 in ranks for shape in shapes)

    return holds


def whole_gemm(op: Op, _: Network) -> bool:
    """A Gemm without factors: alpha may be any where there is no bias, beta is 1."""
    alpha = float(op.attributes.get("alpha", 1.0))
    return float(op.attributes.get("beta", 1.0)) == 1.0 and (operand(op, 2) is None or alpha == 1.0)


def fixed_scale(scale: float, zero_point: int) -> Condition:
    """The output has this scale and zero point."""

    def holds(op: Op, _: Network) -> bool:
        params = op.outputs[0].params
        return params is not None and (float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])) == (
            scale,
            zero_point,
        )

    return holds


def plain(op: Op, _: Network) -> bool:
    """No clamp follows."""
    return op.clamp is None
