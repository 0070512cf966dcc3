"""ONNX operators on single elements, reductions and products of matrices, as PyTorch functions.

Each takes the node's attributes and its inputs, None where one is left out, and returns its output. Semantics are those
of opset 21 (https://onnx.ai/onnx/operators), and of older opsets where attributes became inputs since.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from halfeven.errors import UnsupportedModel
from halfeven.training.pytorch import Tensor, torch

F = torch.nn.functional
Attributes = Mapping[str, Any]
Operator = Callable[..., Any]

DTYPES: dict[int, Any] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
"""By the number that ONNX gives an element type."""


def dtype_of(number: int) -> Any:
    """The PyTorch type of an ONNX element type.

    Raises:
        UnsupportedModel: PyTorch has none.
    """
    if number not in DTYPES:
        raise UnsupportedModel(f"A cast to ONNX element type {number} was found, which PyTorch has not. Leave it out.")
    return DTYPES[number]


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: constants of integers stay on the CPU until they meet data."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    return tuple(t.to(device) for t in tensors)


def integers(tensor: Tensor | None) -> list[int]:
    """A shape, axes or the like, as Python integers; empty if it is left out."""
    return [] if tensor is None else [int(i) for i in tensor.reshape(-1).tolist()]


def _plain(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, *inputs: function(*together(*inputs))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Of any number of inputs, from the left."""

    def run(attributes: Attributes, *inputs: Tensor) -> Tensor:
        first, *rest = together(*inputs)
        for other in rest:
            first = function(first, other)
        return first

    return run


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    a, b = together(a, b)
    return torch.fmod(a, b) if attributes.get("fmod", 0) else torch.remainder(a, b)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


def _clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = attributes.get("min") if low is None else low
    most = attributes.get("max") if high is None else high
    if isinstance(least, torch.Tensor):
        x = torch.maximum(x, least.to(x.device, x.dtype))
    elif least is not None:
        x = x.clamp(min=least)
    if isinstance(most, torch.Tensor):
        return torch.minimum(x, most.to(x.device, x.dtype))
    return x if most is None else x.clamp(max=most)


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return (x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)).clamp(0.0, 1.0)


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", "none"))


def _selu(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, gamma = attributes.get("alpha", 1.6732632423543772), attributes.get("gamma", 1.0507009873554805)
    return gamma * torch.where(x > 0, x, alpha * (x.exp() - 1))


def _prelu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    wanted = dtype_of(int(attributes["to"]))
    return x != 0 if wanted is torch.bool else x.to(wanted)


def _where(attributes: Attributes, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(*together(condition, a, b))


def _softmax(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x: function(x, dim=int(attributes.get("axis", -1)))


def _is_inf(attributes: Attributes, x: Tensor) -> Tensor:
    above = torch.isposinf(x) if attributes.get("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    return above | torch.isneginf(x) if attributes.get("detect_negative", 1) else above


# ------------------------------------------------------------------------------------------------- reductions


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """Over axes that are an input or, before opset 18, an attribute; over all if there are none."""

    def run(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = integers(axes) or [int(a) for a in attributes.get("axes", [])]
        if not chosen:
            if attributes.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.ndim))
        return function(x, chosen, bool(attributes.get("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _most(attributes: Attributes, x: Tensor, largest: bool) -> Tensor:
    axis, keep = int(attributes.get("axis", 0)), bool(attributes.get("keepdims", 1))
    if not attributes.get("select_last_index", 0):
        return x.argmax(axis, keepdim=keep) if largest else x.argmin(axis, keepdim=keep)
    flipped = x.flip(axis)
    found = flipped.argmax(axis, keepdim=keep) if largest else flipped.argmin(axis, keepdim=keep)
    return x.shape[axis] - 1 - found


def _cumulate(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    if attributes.get("reverse", 0):
        x = x.flip(dim)
    total = x.cumsum(dim).to(x.dtype)
    if attributes.get("exclusive", 0):
        total = total - x
    return total.flip(dim) if attributes.get("reverse", 0) else total


# ------------------------------------------------------------------------------------------ products of matrices


def _matmul(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if c is not None and alpha == beta == 1.0 and c.ndim == 1:
        return torch.addmm(c, a, b)
    out = a @ b if alpha == 1.0 else alpha * (a @ b)
    if c is None:
        return out
    return out + (c if beta == 1.0 else beta * c)


def _einsum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    equation = attributes["equation"]
    return torch.einsum(equation.decode() if isinstance(equation, bytes) else equation, *inputs)


POINTWISE: dict[str, Operator] = {
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(_divide),
    "Pow": _plain(_power),
    "Mod": _modulo,
    "Sum": _folded(torch.add),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mean": lambda attributes, *inputs: sum(inputs[1:], inputs[0]) / len(inputs),
    "Neg": _plain(torch.neg),
    "Abs": _plain(torch.abs),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal),
    "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil),
    "Round": _plain(torch.round),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos),
    "Tan": _plain(torch.tan),
    "Atan": _plain(torch.atan),
    "Sinh": _plain(torch.sinh),
    "Cosh": _plain(torch.cosh),
    "Erf": _plain(torch.erf),
    "Tanh": _plain(torch.tanh),
    "Sigmoid": _plain(torch.sigmoid),
    "Relu": _plain(torch.relu),
    "Softplus": _plain(lambda x: F.softplus(x, threshold=math.inf)),
    "Softsign": _plain(F.softsign),
    "Mish": _plain(F.mish),
    "HardSwish": _plain(lambda x: x * (x * (1 / 6) + 0.5).clamp(0.0, 1.0)),
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Selu": _selu,
    "Elu": lambda attributes, x: F.elu(x, attributes.get("alpha", 1.0)),
    "Celu": lambda attributes, x: F.celu(x, attributes.get("alpha", 1.0)),
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "ThresholdedRelu": lambda attributes, x: torch.where(x > attributes.get("alpha", 1.0), x, torch.zeros_like(x)),
    "PRelu": _prelu,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": lambda attributes, x, like: x.to(like.dtype),
    "Where": _where,
    "Equal": _plain(torch.eq),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "And": _plain(torch.logical_and),
    "Or": _plain(torch.logical_or),
    "Xor": _plain(torch.logical_xor),
    "Not": _plain(torch.logical_not),
    "IsNaN": _plain(torch.isnan),
    "IsInf": _is_inf,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ArgMax": lambda attributes, x: _most(attributes, x, True),
    "ArgMin": lambda attributes, x: _most(attributes, x, False),
    "CumSum": _cumulate,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
