"""Forms: which operators of a network run on codes in LiteRT, and what stands between codes and real numbers.

`settled` rewrites a network so that each operator has either codes on all its data or real numbers on all of them:

    all codes, and LiteRT has such a kernel      as it is; where codes are moved, inputs of another scale requantized
    else                                         dequantize -> the operator in real numbers -> quantize

A constant that loses its codes becomes the real numbers that they stood for; weights of a layer that reads real numbers
keep them (hybrid kernels, or DEQUANTIZE in front). Operators whose output has one scale only in LiteRT get it, and a
requantization behind if the plan has another.

    Softmax, Sigmoid    1/256, -128  in int8     1/32768, 0  in int16
    Tanh                1/128, 0     in int8     1/32768, 0  in int16

Source: TensorFlow Lite 8-bit quantization specification; kernels' Prepare functions, tried with ai_edge_litert 2.3.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from halfeven.graph.network import BORDERS, Network, Op, Tensor
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams

LAYERS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Gather", "Concat", "Pad"}
    | {"MaxPool", "AveragePool", "GlobalMaxPool", "Resize", "Identity", "Dropout", "Max", "Min", "Tile", "Clip"}
    | {"ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth", "Upsample"}
)
OWN = frozenset(
    {"Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh"}
    | {"Softmax", "ReduceMean", "ReduceSum", "GlobalAveragePool", "Exp", "Abs", *LAYERS}
)
NOT_INT16 = frozenset({"PRelu", "HardSwish", "Exp", "ReduceSum", "Abs"})
"""A 16-bit PRELU runs, and gives wrong numbers."""
BY_CONSTANTS = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})
FIXED: Mapping[str, tuple[float, int]] = {
    "Softmax": (1 / 256, -128),
    "Sigmoid": (1 / 256, -128),
    "Tanh": (1 / 128, 0),
}
FIXED_INT16 = (1 / 32768, 0)


@dataclass
class Settling:
    """What `settled` makes: operators in order, and which ran in real numbers though the plan has codes, with why."""

    ops: list[Op] = field(default_factory=list)
    floats: dict[str, str] = field(default_factory=dict)
    real: dict[str, Tensor] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def name(self, wanted: str) -> str:
        """A name that no tensor has."""
        name, count = wanted, 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name


def settled(network: Network, why_not: Callable[[Op], str]) -> Settling:
    """The operators, each all in codes or all in real numbers.

    `why_not` says why an operator on codes has no integer kernel; empty when it has one.
    """
    made = Settling(names={t.name for op in network.ops for t in (*op.inputs, *op.outputs) if t is not None})
    for op in network.ops:
        if op.kind in (*BORDERS, "Requantize"):
            made.ops.append(op)
        elif op.integer and _all_codes(op) and not (reason := _no_form(op) or why_not(op)):
            _integer(op, made)
        else:
            if op.integer:
                made.floats[op.name] = reason if _all_codes(op) else "an operand has no codes"
            _floating(op, made)
    return made


def _data(op: Op) -> list[Tensor]:
    """The operands that are data: not indices, shapes, bounds or biases."""
    return [op.inputs[port] for port in data_ports(op)]  # type: ignore[misc]


def data_ports(op: Op) -> list[int]:
    """The ports of an operator that carry data."""
    if op.kind in LAYERS:
        ports: Iterable[int] = (0, 1)
    elif op.kind in ("Add", "Sub", "Mul", "Div", "Concat", "Max", "Min", "PRelu"):
        ports = range(len(op.inputs))
    else:
        ports = (0,)
    return [port for port in ports if port < len(op.inputs) and op.inputs[port] is not None]


def _all_codes(op: Op) -> bool:
    """Whether data are codes; a constant number beside them becomes codes, too, when it is written."""
    return all(t.coded or (t.constant is not None and op.kind in BY_CONSTANTS) for t in _data(op))


def _no_form(op: Op) -> str:
    grid = op.outputs[0].params.scheme.grid if op.outputs[0].params is not None else None
    if op.domain or op.kind not in MOVERS | OWN:
        return f"LiteRT has no integer kernel for {op.kind}"
    if grid is not None and grid.bits == 16 and op.kind in NOT_INT16:
        return f"LiteRT has no 16-bit kernel for {op.kind}"
    return ""


def same_params(a: Tensor, b: Tensor) -> bool:
    """Whether codes of both mean the same."""
    assert a.params is not None
    assert b.params is not None
    return bool(np.array_equal(a.params.scale.ravel(), b.params.scale.ravel())
                and np.array_equal(a.params.zero_point.ravel(), b.params.zero_point.ravel()))  # fmt: skip


def _integer(op: Op, made: Settling) -> None:
    output = op.outputs[0]
    assert output.params is not None
    if op.kind in MOVERS:
        inputs = list(op.inputs)
        for port in data_ports(op):
            source = inputs[port]
            assert source is not None
            if not source.coded:
                inputs[port] = in_codes(source, output.params)
            elif not same_params(source, output):
                inputs[port] = _requantized(source, output.params, made)
        op = replace(op, inputs=tuple(inputs))
    if op.kind in FIXED:
        bits = output.params.scheme.grid.bits
        scale, zero = FIXED_INT16 if bits == 16 else FIXED[op.kind]
        params = QParams(output.params.scheme, np.array([scale], np.float32), np.array([zero], np.int32))
        fixed = replace(output, name=made.name(f"{output.name}_fixed"), params=params)
        if not same_params(fixed, output):
            made.ops.append(replace(op, outputs=(fixed,)))
            made.ops.append(Op("Requantize", f"{op.name}_requantize", (fixed,), (output,)))
            return
    made.ops.append(op)


def _requantized(source: Tensor, params: QParams, made: Settling) -> Tensor:
    """The codes of `source` in another scale."""
    if source.constant is not None:
        return in_codes(replace(source, params=None, constant=_real_constant(source), dtype=ir.DataType.FLOAT), params)
    out = replace(source, name=made.name(f"{source.name}_requantized"), params=params)
    made.ops.append(Op("Requantize", out.name, (source,), (out,)))
    return out


def in_codes(constant: Tensor, params: QParams) -> Tensor:
    """A constant of real numbers as codes."""
    data = np.asarray(constant.data, np.float32)
    codes = quantize(data, shaped(params, data.ndim))
    dtype = ir.DataType.from_numpy(codes.dtype)
    return replace(constant, params=params, dtype=dtype, constant=ir.Tensor(codes, name=constant.name))


def _floating(op: Op, made: Settling) -> None:
    """The operator in real numbers, between borders where it stands among codes."""
    weight = LAYERS.get(op.kind) if not op.integer else None
    inputs = [
        t if t is None or (port == weight and t.constant is not None) else _made_real(t, made)
        for port, t in enumerate(op.inputs)
    ]
    outputs, after = [], []
    for output in op.outputs:
        if not output.coded:
            outputs.append(output)
            continue
        real = replace(output, name=made.name(f"{output.name}_real"), dtype=ir.DataType.FLOAT, params=None)
        outputs.append(real)
        after.append(Op("QuantizeLinear", f"{op.name}_quantize", (real,), (output,)))
    made.ops += [replace(op, inputs=tuple(inputs), outputs=tuple(outputs)), *after]


def _made_real(source: Tensor, made: Settling) -> Tensor:
    """The real numbers of codes; what has none stays."""
    if not source.coded:
        return source
    if source.name not in made.real:
        if source.constant is not None:
            real = replace(source, params=None, constant=_real_constant(source), dtype=ir.DataType.FLOAT)
        else:
            real = replace(source, name=made.name(f"{source.name}_real"), params=None, dtype=ir.DataType.FLOAT)
            made.ops.append(Op("DequantizeLinear", real.name, (source,), (real,)))
        made.real[source.name] = real
    return made.real[source.name]


def _real_constant(source: Tensor) -> ir.TensorProtocol:
    assert source.data is not None
    codes = source.data.astype(np.int64)
    assert source.params is not None
    return ir.Tensor(dequantize(codes, shaped(source.params, codes.ndim)), name=source.name)


def shaped(params: QParams, rank: int) -> QParams:
    """The parameters with the rank of their tensor."""
    axis = params.scheme.tiling.axis
    shape = [1] * rank
    if axis is not None and params.scale.size > 1:
        shape[axis] = params.scale.size
    elif params.scale.size > 1:
        return params
    return QParams(params.scheme, params.scale.reshape(shape), params.zero_point.reshape(shape))
