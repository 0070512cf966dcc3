"""The `integer` machine: the arithmetic of `numerics.integer_target`, which generated C computes too.

Signed 8-bit codes, weights without a zero point, clamps as limits of codes; what has no row there runs on real numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from halfeven.errors import BadOption
from halfeven.graph.network import Network, Op, divisor, looked_up
from halfeven.numerics import code_tables, integer_target
from halfeven.numerics.elementwise import Output
from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.requant import Requant
from halfeven.run.integer.borders import ToCodes, ToReal
from halfeven.run.integer.conditions import (
    all_of,
    attribute,
    coded_bias,
    coded_output,
    one_scale,
    same_params,
    spatial,
    types,
)
from halfeven.run.integer.explicit import KINDS, Explicit
from halfeven.run.integer.layers import DOUBLE, Layer, window_of
from halfeven.run.integer.machine import Array, Arrays, Machine, Rule, Run, affine, code_type, given, operand, result
from halfeven.run.integer.pointwise import Moved

Compute = Callable[[Op, Arrays], Array]


@dataclass(frozen=True)
class Defined:
    """An operator as one function of the operator and its arrays."""

    compute: Compute

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The function, its codes in the type of the output."""
        dtype = code_type(op.outputs[0])
        return lambda arrays: (self.compute(op, arrays).astype(dtype),)


@dataclass(frozen=True)
class Looked:
    """A function of one number by its table of codes."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The table, looked up."""
        low, dtype = INT8.low, code_type(op.outputs[0])
        table = code_tables.code_table(op.kind, affine(op, 0), _limits(op), low, looked_up(op))
        return lambda arrays: (code_tables.look_up(given(arrays, 0), table, low).astype(dtype),)


def _limits(op: Op) -> Output:
    """The output's limits, narrowed by a Clip's own bounds."""
    if op.kind != "Clip":
        return result(op)
    bounds = [operand(op, port) for port in (1, 2)]
    ends = [float(op.attributes.get(name, end)) for name, end in (("min", -np.inf), ("max", np.inf))]
    values = [
        end if t is None or t.data is None else float(np.asarray(t.data).ravel()[0])
        for t, end in zip(bounds, ends, strict=True)
    ]
    clamp = values if op.clamp is None else [max(values[0], op.clamp[0]), min(values[1], op.clamp[1])]
    return result(replace(op, clamp=(clamp[0], clamp[1])))


def _divides(op: Op, _: Network) -> bool:
    return op.kind != "Div" or divisor(op) != 0.0


def _sum(sign: int) -> Compute:
    return lambda op, arrays: integer_target.add(
        given(arrays, 0), given(arrays, 1), affine(op, 0), affine(op, 1), result(op), sign
    )


def _multiply(op: Op, arrays: Arrays) -> Array:
    return integer_target.multiply(given(arrays, 0), given(arrays, 1), affine(op, 0), affine(op, 1), result(op))


def _prelu(op: Op, arrays: Arrays) -> Array:
    return integer_target.prelu(given(arrays, 0), given(arrays, 1), affine(op, 0), affine(op, 1), result(op))


def _global_mean(op: Op, arrays: Arrays) -> Array:
    x = given(arrays, 0)
    return integer_target.mean(x, tuple(range(2, x.ndim)), affine(op, 0), result(op))


def _mean(op: Op, arrays: Arrays) -> Array:
    named = arrays[1] if len(arrays) > 1 else None
    axes = op.attributes.get("axes", ()) if named is None else named.ravel()
    x = given(arrays, 0)
    if not len(axes) and op.attributes.get("noop_with_empty_axes", 0):
        raise BadOption(f"ReduceMean '{op.name}' over no axis: remove it.")
    over = tuple(int(axis) % x.ndim for axis in axes)
    return integer_target.mean(x, over, affine(op, 0), result(op), bool(op.attributes.get("keepdims", 1)))


def _average_pool(op: Op, arrays: Arrays) -> Array:
    x = given(arrays, 0)
    window = window_of(op, x.shape[2:], tuple(op.attributes["kernel_shape"]))
    counted = bool(op.attributes.get("count_include_pad", 0))
    return integer_target.average_pool(x, affine(op, 0), result(op), window, counted)


def _softmax(op: Op, arrays: Arrays) -> Array:
    return code_tables.softmax(given(arrays, 0), int(op.attributes.get("axis", -1)), affine(op, 0), result(op))


def _transposed(op: Op, arrays: Arrays) -> Array:
    x, w = given(arrays, 0), given(arrays, 1)
    kernel, size = w.shape[2:], x.shape[2:]
    window = window_of(op, size, kernel)
    extra = op.attributes.get("output_padding", (0,) * len(size))
    rank = len(size)
    made = [
        (n - 1) * window.strides[i] + extra[i] + (kernel[i] - 1) * window.dilations[i] + 1
        - window.pads[i] - window.pads[i + rank]
        for i, n in enumerate(size)
    ]  # fmt: skip
    weight = operand(op, 1)
    assert weight is not None
    assert weight.params is not None
    bias = arrays[2] if len(arrays) > 2 else None
    groups = int(op.attributes.get("group", 1))
    scales = weight.params.scale.ravel()
    given_bias = np.zeros(1, np.int32) if bias is None else bias
    return integer_target.convolve_transposed(x, w, given_bias, affine(op, 0), scales, result(op), window, made, groups)


def _plain_transposed(op: Op, _: Network) -> bool:
    return "output_shape" not in op.attributes and op.attributes.get("auto_pad", "NOTSET") == "NOTSET"


LAYER = Layer(Requant.SINGLE_ROUNDING, DOUBLE)
LAYERS = (types((INT8, INT8), (INT8, INT8_NARROW)), coded_output, coded_bias(), one_scale(0))
BOTH = (all_of(INT8), one_scale(0, 1), coded_output)
UNARY = (types((INT8,)), coded_output, one_scale(0))
INTEGER = Machine(
    "integer",
    "halfeven.numerics.integer_target: integers and shifts alone, as in the generated C",
    "the definition itself; the generated C is compared with it",
    (
        Rule(("QuantizeLinear",), ToCodes(), (coded_output, lambda op, _: len(op.inputs) == 1)),
        Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
        Rule(("Conv",), LAYER, (*LAYERS, spatial(1, 2))),
        Rule(("Gemm",), LAYER, (*LAYERS, attribute("alpha", 1.0, (1.0,)), attribute("beta", 1.0, (1.0,)))),
        Rule(("MatMul",), LAYER, LAYERS),
        Rule(("ConvTranspose",), Defined(_transposed), (*LAYERS, spatial(1, 2), _plain_transposed)),
        Rule(("Add",), Defined(_sum(1)), BOTH),
        Rule(("Sub",), Defined(_sum(-1)), BOTH),
        Rule(("Mul",), Defined(_multiply), BOTH),
        Rule(("PRelu",), Defined(_prelu), BOTH),
        Rule(("GlobalAveragePool",), Defined(_global_mean), UNARY),
        Rule(("ReduceMean",), Defined(_mean), UNARY),
        Rule(("AveragePool",), Defined(_average_pool), UNARY),
        Rule(("Softmax",), Defined(_softmax), UNARY),
        Rule(tuple(code_tables.FUNCTIONS), Looked(), (*UNARY, _divides)),
        Rule(
            ("MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat",
             "Expand", "Gather", "Tile"),
            Moved(),
            (same_params, types((INT8,))),
        ),
        Rule(KINDS, Explicit()),
    ),
)  # fmt: skip
