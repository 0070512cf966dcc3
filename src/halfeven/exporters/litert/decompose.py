"""Operators that LiteRT lacks, as operators that it has.

    LayerNormalization     (x - mean) / sqrt(mean((x - mean)**2) + epsilon) * scale + bias, over the axes from `axis` on
    BatchNormalization     x * (scale / sqrt(var + epsilon)) + (bias - mean * scale / sqrt(var + epsilon))
    InstanceNormalization  as LayerNormalization over the spatial axes, scale and bias by channel
    Reciprocal             1 / x
    Softplus               log(exp(x) + 1), as max(x, 0) + log(exp(-|x|) + 1)
    Elu                    max(x, 0) + alpha * (exp(min(x, 0)) - 1)
    ReduceL2               sqrt(sum(x**2))
    Pow                    x * x where the power is 2: TensorFlow Lite Micro has no POW
    Erf                    sign(x) * (1 - t * (a1 + t * (a2 + ...)) * exp(-x**2)), t = 1 / (1 + p |x|): to 1.5e-7
    LSTM, GRU              `recurrent`: step after step

They are computed in real numbers. Source of Erf: Abramowitz and Stegun, 7.1.26.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.graph.network import Network, Op, Shape, Tensor

ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_P = 0.3275911


@dataclass
class Parts:
    """Makes the operators that one operator becomes; names begin with its own."""

    op: Op
    ops: list[Op] = field(default_factory=list)

    def make(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shape: Shape | None,
        out: Tensor | None = None,
        **attributes: Any,
    ) -> Tensor:
        """One operator; what it makes is a new tensor of `shape`, or `out`."""
        name = f"{self.op.name}/{kind}_{len(self.ops)}"
        made = Tensor(name, ir.DataType.FLOAT, shape) if out is None else out
        clamp = self.op.clamp if out is not None else None
        self.ops.append(Op(kind, name, tuple(inputs), (made,), attributes, clamp))
        return made

    def number(self, value: float | np.ndarray, what: str = "number") -> Tensor:
        """A constant."""
        array = np.asarray(value, np.float32)
        name = f"{self.op.name}/{what}_{len(self.ops)}"
        return Tensor(name, ir.DataType.FLOAT, array.shape, None, ir.Tensor(array, name=name))

    def indices(self, values: Sequence[int]) -> Tensor:
        """A constant of axes or places."""
        array = np.array(values, np.int64)
        name = f"{self.op.name}/indices_{len(self.ops)}"
        return Tensor(name, ir.DataType.INT64, array.shape, None, ir.Tensor(array, name=name))


def simplified(network: Network, more: Mapping[str, Callable[[Op], list[Op]]]) -> Network:
    """The network without operators that this table, or `more`, takes apart."""
    table = {**DECOMPOSED, **more}
    ops: list[Op] = []
    for op in network.ops:
        ops += table[op.kind](op) if op.kind in table and not op.domain else [op]
    return replace(network, ops=tuple(ops))


def _operand(op: Op, port: int) -> Tensor:
    found = op.inputs[port]
    assert found is not None
    return found


def _normalized(parts: Parts, x: Tensor, axes: Sequence[int]) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon)."""
    shape = None if x.shape is None else tuple(1 if a in axes else d for a, d in enumerate(x.shape))
    where = parts.indices(axes)
    mean = parts.make("ReduceMean", [x, where], shape)
    centred = parts.make("Sub", [x, mean], x.shape)
    variance = parts.make("ReduceMean", [parts.make("Mul", [centred, centred], x.shape), where], shape)
    epsilon = parts.number(float(parts.op.attributes.get("epsilon", 1e-5)))
    deviation = parts.make("Sqrt", [parts.make("Add", [variance, epsilon], shape)], shape)
    return parts.make("Div", [centred, deviation], x.shape)


def _affine(parts: Parts, x: Tensor, scale: Tensor | None, bias: Tensor | None) -> list[Op]:
    out = parts.op.outputs[0]
    if scale is None:
        scale = parts.number(1.0)
    if bias is None:
        parts.make("Mul", [x, scale], x.shape, out)
    else:
        parts.make("Add", [parts.make("Mul", [x, scale], x.shape), bias], x.shape, out)
    return parts.ops


def _layer_normalization(op: Op) -> list[Op]:
    x = _operand(op, 0)
    rank = len(x.shape or ())
    axes = list(range(int(op.attributes.get("axis", -1)) % max(rank, 1), rank))
    parts = Parts(op)
    normal = _normalized(parts, x, axes)
    return _affine(parts, normal, op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None)


def _instance_normalization(op: Op) -> list[Op]:
    x = _operand(op, 0)
    rank = len(x.shape or ())
    parts = Parts(op)
    normal = _normalized(parts, x, range(2, rank))
    scale, bias = (parts.number(_by_channel(_operand(op, port), rank), "factor") for port in (1, 2))
    return _affine(parts, normal, scale, bias)


def _by_channel(tensor: Tensor, rank: int) -> np.ndarray:
    return np.asarray(tensor.values, np.float32).reshape((-1, *[1] * (rank - 2)))


def _batch_normalization(op: Op) -> list[Op]:
    x = _operand(op, 0)
    if any(t is None or t.data is None for t in op.inputs[1:5]):
        return [op]
    parts, rank = Parts(op), len(x.shape or ())
    scale, bias, mean, variance = (_by_channel(_operand(op, port), rank) for port in range(1, 5))
    factor = scale / np.sqrt(variance + np.float32(op.attributes.get("epsilon", 1e-5)))
    return _affine(parts, x, parts.number(factor, "factor"), parts.number(bias - mean * factor, "offset"))


def _reciprocal(op: Op) -> list[Op]:
    parts = Parts(op)
    parts.make("Div", [parts.number(1.0), _operand(op, 0)], op.outputs[0].shape, op.outputs[0])
    return parts.ops


def _softplus(op: Op) -> list[Op]:
    parts, x = Parts(op), _operand(op, 0)
    small = parts.make("Exp", [parts.make("Neg", [parts.make("Abs", [x], x.shape)], x.shape)], x.shape)
    log = parts.make("Log", [parts.make("Add", [small, parts.number(1.0)], x.shape)], x.shape)
    parts.make("Add", [parts.make("Relu", [x], x.shape), log], x.shape, op.outputs[0])
    return parts.ops


def _elu(op: Op) -> list[Op]:
    parts, x = Parts(op), _operand(op, 0)
    below = parts.make("Neg", [parts.make("Relu", [parts.make("Neg", [x], x.shape)], x.shape)], x.shape)
    curve = parts.make("Sub", [parts.make("Exp", [below], x.shape), parts.number(1.0)], x.shape)
    scaled = parts.make("Mul", [curve, parts.number(float(op.attributes.get("alpha", 1.0)))], x.shape)
    parts.make("Add", [parts.make("Relu", [x], x.shape), scaled], x.shape, op.outputs[0])
    return parts.ops


def _reduce_l2(op: Op) -> list[Op]:
    parts, x = Parts(op), _operand(op, 0)
    shape = op.outputs[0].shape
    square = parts.make("Mul", [x, x], x.shape)
    total = parts.make("ReduceSum", [square, *op.inputs[1:]], shape, **dict(op.attributes))
    parts.make("Sqrt", [total], shape, op.outputs[0])
    return parts.ops


def _erf(op: Op) -> list[Op]:
    parts, x = Parts(op), _operand(op, 0)
    shape = x.shape

    def of(kind: str, *inputs: Tensor) -> Tensor:
        return parts.make(kind, inputs, shape)

    one = parts.number(1.0, "one")
    size = of("Abs", x)
    t = of("Div", one, of("Add", of("Mul", size, parts.number(ERF_P)), one))
    poly = of("Mul", t, parts.number(ERF[-1]))
    for factor in reversed(ERF[:-1]):
        poly = of("Mul", of("Add", poly, parts.number(factor)), t)
    tail = of("Exp", of("Neg", of("Mul", x, x)))
    parts.make("Mul", [of("Sign", x), of("Sub", one, of("Mul", poly, tail))], shape, op.outputs[0])
    return parts.ops


def _power(op: Op) -> list[Op]:
    x, power = _operand(op, 0), _operand(op, 1)
    held = None if power.coded else power.data
    if held is None or held.size != 1 or held.ndim > len(x.shape or ()) or float(held.ravel()[0]) != 2.0:
        return [op]
    parts = Parts(op)
    parts.make("Mul", [x, x], x.shape, op.outputs[0])
    return parts.ops


DECOMPOSED: dict[str, Callable[[Op], list[Op]]] = {
    "LayerNormalization": _layer_normalization,
    "InstanceNormalization": _instance_normalization,
    "BatchNormalization": _batch_normalization,
    "Reciprocal": _reciprocal,
    "Softplus": _softplus,
    "Elu": _elu,
    "ReduceL2": _reduce_l2,
    "Erf": _erf,
    "Pow": _power,
}
