"""OpenVINO's CPU plugin on x86-64; `numerics.openvino` has its arithmetic.

    operator                  reads                                gives
    Conv, Gemm, MatMul        uint8, or int8 without zero point    `fused_codes`; `folded_codes` if the weights have one
                                                                   scale; real numbers
    Add of codes              a convolution that it is part of     `sum_codes`
                              others                               `fused_codes` of the sum of real numbers
    QuantizeLinear            real numbers                         `lone_codes`, of fixed shapes the profile `openvino`
                              x w + v, two numbers                 `fused_codes`
    HardSwish                 real numbers                         `swish`
    MaxPool, Reshape, ...     codes whose parameters stay          the codes

A sum becomes part of the convolution before it: that of its first operand if the sum alone reads it, else that of the
second, unless its other operand is what that convolution reads. Such a convolution hands on real numbers here, and has
no codes there. All else runs on real numbers; where codes follow, a fused FakeQuantize makes them.

Sources: OpenVINO 2026.4, the compiled model's own graph; measured.
"""

from dataclasses import dataclass, replace

import numpy as np

from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8
from halfeven.numerics.openvino import folded_codes, fused_codes, lone_codes, offsets_real, real_sums, sum_codes
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.quantize import Array as Floats
from halfeven.numerics.scheme import QParams
from halfeven.run.integer.borders import ToCodes, ToReal
from halfeven.run.integer.conditions import coded_output, same_params, spatial, types
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Machine,
    Rule,
    Run,
    affine,
    given,
    params_of,
)
from halfeven.run.integer.pointwise import Moved
from halfeven.run.integer.real_layers import Sums, plain, product
from halfeven.run.integer.swish import HardSwish, with_swishes

PROFILE = profile_named("openvino")
FOLDED = "FoldedQuantizeLinear"


def fixed_codes(x: Floats, params: QParams) -> Array:
    """Codes as a FakeQuantize of its own makes them where all shapes are fixed."""
    grid, scale, zero = params.scheme.grid, params.scale.ravel()[0], params.zero_point.ravel()[0]
    return PROFILE.quantize(np.asarray(x, np.float32), scale, zero, grid.low, grid.high).astype(grid.dtype)


def open_codes(x: Floats, params: QParams) -> Array:
    """Codes as a FakeQuantize of its own makes them otherwise."""
    return lone_codes(np.asarray(x, np.float32), params)


def fixed_shapes(_: Op, network: Network) -> bool:
    """Whether all inputs of the network have fixed shapes."""
    return all(t.shape is not None and all(isinstance(d, int) for d in t.shape) for t in network.inputs)


def following_codes(x: Floats, params: QParams) -> Array:
    """Codes as a FakeQuantize that is part of the layer before it makes them."""
    return fused_codes(np.asarray(x, np.float32), params)


@dataclass(frozen=True)
class Int8Layer:
    """A layer: int32 sums made real, clamped, and codes if the output is coded, unless a sum takes it up."""

    alone: bool = True

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """What computes it."""
        sums = Sums.of(op, affine(op, 0).zero_point, threads)
        scales = np.float32(affine(op, 0).scale) * params_of(op, 1).scale.ravel()
        by, bias = np.asarray(scales, np.float32).reshape(sums.channels), sums.bias()

        def run(arrays: Arrays) -> tuple[Array, ...]:
            acc = sums(given(arrays, 0))
            made = op.outputs[0].params
            if made is not None and by.size == 1 and op.clamp is None and self.alone:
                return (folded_codes(acc, by, bias, made),)
            real = real_sums(acc, by, bias)
            if op.clamp is not None:
                real = np.clip(real, *np.asarray(op.clamp, np.float32))
            return (real if made is None or not self.alone else fused_codes(real, made),)

        return run


@dataclass(frozen=True)
class Sum:
    """The sum of codes; an operand that is real yet is a convolution's, of which the sum is part."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The sum."""
        params, made = (params_of(op, 0), params_of(op, 1)), op.outputs[0].params
        assert made is not None

        def run(arrays: Arrays) -> tuple[Array, ...]:
            operands = given(arrays, 0), given(arrays, 1)
            for inner, other in ((0, 1), (1, 0)):
                if operands[inner].dtype.kind == "f":
                    real, codes = operands[inner], operands[other]
                    return (sum_codes(real, params[inner], codes, params[other], made, op.clamp),)
            total = offsets_real(operands[0], params[0]) + offsets_real(operands[1], params[1])
            if op.clamp is not None:
                total = np.clip(total, *np.asarray(op.clamp, np.float32))
            return (fused_codes(total, made),)

        return run


@dataclass(frozen=True)
class Folded:
    """A FakeQuantize whose limits have taken up a factor and a number added: its other two operands."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes of the first operand's line."""
        made = op.outputs[0].params
        assert made is not None

        def run(arrays: Arrays) -> tuple[Array, ...]:
            unit, added = (np.float32(given(arrays, port).ravel()[0]) for port in (1, 2))
            return (fused_codes(np.asarray(given(arrays, 0), np.float32), made, unit, added),)

        return run


def prepared(network: Network) -> Network:
    """HardSwish as one operator, and lines of real numbers before a QuantizeLinear folded into it."""
    joined = with_swishes(network)
    lines = {id(op): line for op in joined.ops if op.kind == "QuantizeLinear" and (line := _line(op, joined))}
    gone = {id(op) for _, chain in lines.values() for op in chain}
    ops = [
        Op(FOLDED, op.name, lines[id(op)][0], op.outputs) if id(op) in lines else op
        for op in joined.ops
        if id(op) not in gone
    ]
    return replace(joined, ops=tuple(ops))


def _line(quantize: Op, network: Network) -> tuple[tuple[Tensor, ...], list[Op]] | None:
    """What a QuantizeLinear reads, times a number, plus a number, and the two operators that say so."""
    chain: list[Op] = []
    held: list[Tensor] = []
    at = quantize.inputs[0]
    for kind in ("Add", "Mul"):
        op = None if at is None else network.maker(at.name)
        if op is None or op.kind != kind or op.clamp is not None or at is None or len(network.readers(at.name)) != 1:
            return None
        constants = [t for t in op.inputs if t is not None and t.constant is not None and not t.coded]
        if len(constants) != 1 or any(t.name == at.name for t in network.outputs):
            return None
        if constants[0].data is None or constants[0].data.size != 1:
            return None
        held.append(constants[0])
        chain.append(op)
        at = next((t for t in op.inputs if t is not None and t is not constants[0]), None)
    factor = held[1].data
    if at is None or at.coded or factor is None or not float(factor.ravel()[0]) > 0:
        return None
    return (at, held[1], held[0]), chain


def swallowed(conv: Op, network: Network) -> bool:
    """Whether a convolution takes up the sum that alone reads its codes.

    Of two convolutions it is that of the first operand; the other operand must not be what the convolution reads.
    """
    made = conv.outputs[0]
    readers = network.readers(made.name)
    if not made.coded or len(readers) != 1 or not sums_codes(readers[0], network) or readers[0].kind != "Add":
        return False
    if not readers[0].outputs[0].coded:
        return False
    first, second = readers[0].inputs[:2]
    assert first is not None
    assert second is not None
    other = second if first is made else first
    if other is conv.inputs[0] or first.shape != second.shape or first is second:
        return False
    if first is made:
        return True
    maker = network.maker(first.name)
    alone = len(network.readers(first.name)) == 1
    return not (maker is not None and maker.kind == "Conv" and alone)


def hidden(network: Network) -> frozenset[str]:
    """Codes that cannot be watched without changing how a sum is computed: what a sum of codes reads."""
    sums = [op for op in network.ops if op.kind == "Add" and sums_codes(op, network)]
    return frozenset(t.name for op in sums for t in op.inputs if t is not None)


def sums_codes(op: Op, _: Network) -> bool:
    """Both operands are computed codes, with one scale each."""
    return all(
        t is not None and t.constant is None and t.params is not None and t.params.scale.size == 1
        for t in op.inputs[:2]
    )


MOVES = ("MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat")
INT8S = types(*((x, w) for x in (UINT8, INT8, INT8_NARROW) for w in (INT8, INT8_NARROW)), output=False)
OPENVINO_CPU = Machine(
    "openvino@cpu",
    "OpenVINO 2026.4 on x86-64 with VNNI or AMX, INFERENCE_PRECISION_HINT=f32",
    "run beside the runtime, of 10 million codes of convolutions 3 at most differ, with one scale 16, with sums 19, "
    "of other sums 310, of products and real numbers none; of networks those behind functions that OpenVINO rounds "
    "otherwise, such as Softmax",
    (
        Rule(("QuantizeLinear",), ToCodes(fixed_codes), (lambda op, _: len(op.inputs) == 1, fixed_shapes)),
        Rule(("QuantizeLinear",), ToCodes(open_codes), (lambda op, _: len(op.inputs) == 1,)),
        Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
        Rule(("Conv",), Int8Layer(alone=False), (INT8S, plain, spatial(1, 2, 3), swallowed)),
        Rule(("Conv",), Int8Layer(), (INT8S, plain, spatial(1, 2, 3))),
        Rule(("Add",), Sum(), (sums_codes, coded_output)),
        Rule(("HardSwish",), HardSwish()),
        Rule((FOLDED,), Folded()),
        Rule(("Gemm", "MatMul"), Int8Layer(), (INT8S, plain, product)),
        Rule(MOVES, Moved(), (same_params, types((UINT8,), (INT8,)))),
    ),
    following_codes,
    prepared,
)
