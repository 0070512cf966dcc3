"""Operators that work element by element: they take whatever order of axes their operands came in.

`UNARY`, `BINARY` and `COMPARISONS` name the ONNX operator of each; what needs more than one node has a function.

    RSQRT              1 / Sqrt                  SQUARED_DIFFERENCE    Sub, Mul
    RELU6              Clip 0..6                 FLOOR_DIV, FLOOR_MOD  towards minus infinity, also of integers
    GELU               Gelu, tanh or exact       SELECT                Where; a condition of rank 1 chooses rows
    L2_NORMALIZATION   x / max(|x|, 1e-6)        PRELU                 PRelu, slopes aligned with the channels

ROUND goes to even in both. Sources: tensorflow/lite/kernels/internal/reference; the ONNX operators.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.layout import placed

UNARY: Mapping[str, str] = {
    "ABS": "Abs",
    "CEIL": "Ceil",
    "COS": "Cos",
    "ELU": "Elu",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish",
    "LOG": "Log",
    "LOGICAL_NOT": "Not",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "ROUND": "Round",
    "SIGN": "Sign",
    "SIN": "Sin",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
CLIPS: Mapping[str, tuple[float, float]] = {"RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}
BINARY: Mapping[str, str] = {
    "ADD": "Add",
    "ADD_N": "Sum",
    "DIV": "Div",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "MUL": "Mul",
    "POW": "Pow",
    "PRELU": "PRelu",
    "SUB": "Sub",
}
COMPARISONS: Mapping[str, str] = {
    "EQUAL": "Equal",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "NOT_EQUAL": "Equal",
}
SMALLEST_NORM = 1e-6


def unary(b: Builder, op: Operator) -> None:
    """An operator of `UNARY`."""
    value, first = _one(b, op)
    b.give(op.output(), b.call(UNARY[op.kind], value), first=first)


def clip(b: Builder, op: Operator) -> None:
    """An operator of `CLIPS`."""
    value, first = _one(b, op)
    b.give(op.output(), b.clip(value, *CLIPS[op.kind]), first=first)


def binary(b: Builder, op: Operator) -> None:
    """An operator of `BINARY` or `COMPARISONS`, of two operands or, for sums, more."""
    values, first = _operands(b, op)
    out = b.call(BINARY.get(op.kind) or COMPARISONS[op.kind], *values)
    if op.kind == "NOT_EQUAL":
        out = b.call("Not", out)
    b.give(op.output(), out, first=first, activation=op.option("activation"))


def square(b: Builder, op: Operator) -> None:
    """SQUARE."""
    value, first = _one(b, op)
    b.give(op.output(), b.call("Mul", value, value), first=first)


def squared_difference(b: Builder, op: Operator) -> None:
    """SQUARED_DIFFERENCE."""
    values, first = _operands(b, op)
    difference = b.call("Sub", *values)
    b.give(op.output(), b.call("Mul", difference, difference), first=first)


def reciprocal_root(b: Builder, op: Operator) -> None:
    """RSQRT."""
    value, first = _one(b, op)
    b.give(op.output(), b.call("Reciprocal", b.call("Sqrt", value)), first=first)


def leaky(b: Builder, op: Operator) -> None:
    """LEAKY_RELU."""
    value, first = _one(b, op)
    b.give(op.output(), b.call("LeakyRelu", value, alpha=float(op.options["alpha"])), first=first)


def gelu(b: Builder, op: Operator) -> None:
    """GELU."""
    value, first = _one(b, op)
    kind = "tanh" if op.option("approximate") else "none"
    b.give(op.output(), b.call("Gelu", value, approximate=kind), first=first)


def floor_division(b: Builder, op: Operator) -> None:
    """FLOOR_DIV and FLOOR_MOD; of integers in double precision, which is exact up to 53 bits."""
    (x, y), first = _operands(b, op)
    dtype = b.tensors[op.output()].dtype
    real = dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or b.tensors[op.output()].coded
    if not real:
        x, y = (b.call("Cast", v, to=ir.DataType.DOUBLE) for v in (x, y))
    out = b.call("Floor", b.call("Div", x, y))
    if op.kind == "FLOOR_MOD":
        out = b.call("Sub", x, b.call("Mul", out, y))
    b.give(op.output(), out if real else b.call("Cast", out, to=dtype), first=first)


def cast(b: Builder, op: Operator) -> None:
    """CAST, to the type of the tensor that it gives."""
    value, first = _one(b, op)
    tensor = b.tensors[op.output()]
    to = ir.DataType.FLOAT if tensor.coded else tensor.dtype
    b.give(op.output(), b.call("Cast", value, to=to), first=first)


def zeros(b: Builder, op: Operator) -> None:
    """ZEROS_LIKE."""
    value, first = _one(b, op)
    tensor = b.tensors[op.output()]
    zero = b.small(0, np.float32 if tensor.coded else tensor.dtype.numpy())
    b.give(op.output(), b.call("Expand", zero, b.call("Shape", value)), first=first)


def select(b: Builder, op: Operator) -> None:
    """SELECT and SELECT_V2."""
    indices = [op.input(port) for port in range(3)]
    condition, rank = b.tensors[indices[0]], b.tensors[op.output()].rank
    if op.kind == "SELECT" and condition.rank == 1 and rank > 1:
        chosen = b.call("Reshape", b.read(indices[0]), b.small([-1] + [1] * (rank - 1)))
        b.give(op.output(), b.call("Where", chosen, b.read(indices[1]), b.read(indices[2])))
        return
    values, first = b.aligned(indices, rank)
    b.give(op.output(), b.call("Where", *values), first=first)


def softmax(b: Builder, op: Operator) -> None:
    """SOFTMAX and LOG_SOFTMAX, along the last axis."""
    value, first = _one(b, op)
    axis = placed(-1, b.tensors[op.input(0)].rank, first)
    beta = float(op.options.get("beta", 1.0))
    if beta != 1.0:
        value = b.call("Mul", value, b.small(beta, np.float32))
    kind = "LogSoftmax" if op.kind == "LOG_SOFTMAX" else "Softmax"
    b.give(op.output(), b.call(kind, value, axis=axis), first=first)


def unit_length(b: Builder, op: Operator) -> None:
    """L2_NORMALIZATION, along the last axis."""
    value, first = _one(b, op)
    axis = placed(-1, b.tensors[op.input(0)].rank, first)
    norm = b.call("ReduceL2", value, b.small([axis]), keepdims=1)
    bounded = b.call("Max", norm, b.small(SMALLEST_NORM, np.float32))
    b.give(op.output(), b.call("Div", value, bounded), first=first, activation=op.option("activation"))


def _one(b: Builder, op: Operator) -> tuple[ir.Value, bool]:
    """The first operand as it came, and whether its channels are first."""
    first = b.is_first(op.input(0))
    return b.read(op.input(0), first=first), first


def _operands(b: Builder, op: Operator) -> tuple[list[ir.Value], bool]:
    indices = [op.input(port) for port in range(len(op.inputs))]
    return b.aligned(indices, max((b.tensors[i].rank for i in indices), default=0))
