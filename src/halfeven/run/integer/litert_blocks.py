"""ADD and MUL in LiteRT's optimized kernels, which compute blocks of elements by vectors and the rest one by one.

The shapes are those of the file, of one rank, with channels last. Blocks count within runs:

    equal shapes                        one run of all elements
    a broadcast, from the last axis on  axes that are alike, A; then those that the same operand repeats, B; then alike,
                                        then those that the other repeats, then alike. Runs of A elements; if A is one
                                        element, runs of B, in which one operand is one number
    any other                           no blocks at all

    operator    block of a run              where an operand is one number         the rest
    ADD         16, `add_in_block`          8, `add_floored`                       double_rounding
    MUL         16, `multiply_in_block`     16, `multiply_in_block`                double_rounding
    ADD, int16  16, `add_in_block_16`       none, nor of a broadcast               double_rounding_16

Sources: LiteRT tflite/kernels/internal/reference/process_broadcast_shapes.h, optimized/optimized_ops.h
(BinaryBroadcastFiveFold), optimized/integer_ops/add.h, mul.h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from halfeven.graph.network import Op
from halfeven.numerics.elementwise import Addition, Affine, Output, add, multiply
from halfeven.numerics.litert import BLOCK, add_floored, add_in_block, add_in_block_16, multiply_in_block
from halfeven.numerics.requant import Requant
from halfeven.run.integer.litert_kernels import back, turned
from halfeven.run.integer.machine import Array, Arrays, Run, affine, code_type, given, result
from halfeven.run.integer.pointwise import TwoCodes

Way = Callable[[Array, Array, Affine, Affine, Output], Array]


@dataclass(frozen=True)
class InRuns:
    """An operator of two operands: how a block is computed, how one where an operand is one number, and the rest.

    `last`: pictures have their channels last in the file. `broadcast`: operands of two shapes have blocks as well.
    """

    block: Way
    number: Way
    rest: Way
    number_block: int = BLOCK
    last: bool = False
    broadcast: bool = True

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operator."""
        in_a, in_b, out, dtype = affine(op, 0), affine(op, 1), result(op), code_type(op.outputs[0])

        def table(way: Way) -> TwoCodes:
            return TwoCodes(lambda a, b: way(a, b, in_a, in_b, out).astype(dtype))

        block, number, rest = table(self.block), table(self.number), table(self.rest)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            a, b = given(arrays, 0), given(arrays, 1)
            rank = max(a.ndim, b.ndim)
            a, b = (turned(x.reshape((1,) * (rank - x.ndim) + x.shape), self.last) for x in (a, b))
            shape = np.broadcast_shapes(a.shape, b.shape)
            length, one = run_length(a.shape, b.shape) if self.broadcast or a.shape == b.shape else (1, False)
            size = self.number_block if one else BLOCK
            cut = length // size * size
            rows = [np.broadcast_to(x, shape).reshape(-1, length) for x in (a, b)]
            way = number if one else block
            parts = [way(rows[0][:, :cut], rows[1][:, :cut]), rest(rows[0][:, cut:], rows[1][:, cut:])]
            return (back(np.concatenate(parts, 1).reshape(shape), self.last),)

        return run


def run_length(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, bool]:
    """Elements of a run, and whether one operand is one number in it; a length of 1 makes no block."""
    if a == b:
        return max(prod(a), 1), False
    axis = next(i for i in reversed(range(len(a))) if a[i] != b[i])
    if a[axis] != 1:
        a, b = b, a
    i, counts = len(a) - 1, []
    for holds in (_alike, _repeats, _alike, _repeated, _alike):
        count = 1
        while i >= 0 and holds(a[i], b[i]):
            count *= max(a[i], b[i])
            i -= 1
        counts.append(count)
    if i >= 0:
        return 1, False
    return (counts[0], False) if counts[0] > 1 else (counts[1], True)


def _alike(a: int, b: int) -> bool:
    return a == b


def _repeats(a: int, _: int) -> bool:
    return a == 1


def _repeated(_: int, b: int) -> bool:
    return b == 1


def _added(a: Array, b: Array, in_a: Affine, in_b: Affine, out: Output) -> Array:
    return add(a, b, in_a, in_b, out, Addition.DOUBLE_ROUNDING)


def _multiplied(a: Array, b: Array, in_a: Affine, in_b: Affine, out: Output) -> Array:
    return multiply(a, b, in_a, in_b, out, Requant.DOUBLE_ROUNDING)


def block_sum(last: bool) -> InRuns:
    """ADD."""
    return InRuns(add_in_block, add_floored, _added, 8, last)


def _added_16(a: Array, b: Array, in_a: Affine, in_b: Affine, out: Output) -> Array:
    return add(a, b, in_a, in_b, out, Addition.DOUBLE_ROUNDING_16)


def block_sum_16(last: bool) -> InRuns:
    """ADD of int16."""
    return InRuns(add_in_block_16, _added_16, _added_16, last=last, broadcast=False)


def block_product(last: bool) -> InRuns:
    """MUL."""
    return InRuns(multiply_in_block, multiply_in_block, _multiplied, BLOCK, last)
