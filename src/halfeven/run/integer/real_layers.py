"""Layers whose int32 sums become real numbers at once: what those of ncnn and OpenVINO have in common.

    acc = sum over k of (x - z) w        of a Conv, or of a MatMul or Gemm whose right side is constant

Runtimes differ in what they do with `acc` then; that stands with their machines.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from halfeven.graph.network import Network, Op
from halfeven.numerics.accumulate import Weights, conv_sums, matrix_sums
from halfeven.numerics.fused import Floats32
from halfeven.run.integer.layers import window_of
from halfeven.run.integer.machine import Array, constant_codes, operand

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums of one layer; call it with codes of shape (N, C, spatial...), or (..., rows, inner) of a product."""

    op: Op
    weights: Weights
    rows: Array
    zero_point: int

    @classmethod
    def of(cls, op: Op, zero_point: int, threads: int) -> "Sums":
        """The sums of `op`, whose input has this zero point."""
        held = operand(op, 1)
        assert held is not None
        codes = constant_codes(held)
        matrix = op.kind != "Conv"
        rows = codes.T if matrix and op.attributes.get("transB", 0) else codes
        groups = 1 if matrix else int(op.attributes.get("group", 1))
        return cls(op, Weights(rows, np.zeros(1, np.int32), groups, threads=threads), rows, zero_point)

    @property
    def channels(self) -> Shape:
        """The shape of one number for each output, to be broadcast with the sums."""
        return (-1,) if self.op.kind != "Conv" else (-1, *(1,) * (self.rows.ndim - 2))

    def bias(self) -> Floats32 | None:
        """The layer's bias, real, float32 of shape `channels`."""
        tensor = operand(self.op, 2)
        if tensor is None:
            return None
        values = tensor.values
        assert values is not None
        return np.asarray(values, np.float32).ravel().reshape(self.channels)

    def __call__(self, x: Array) -> Array:
        """The sums, int32."""
        if self.op.kind == "Conv":
            window = window_of(self.op, x.shape[2:], self.rows.shape[2:])
            return conv_sums(x, self.weights, self.zero_point, window)
        acc = matrix_sums(x[None] if x.ndim == 1 else x, self.weights, self.zero_point)
        return acc[0] if x.ndim == 1 else acc


def plain(op: Op, _: Network) -> bool:
    """Codes with one scale, int8 ones without zero point; constant weights without one; a constant bias."""
    x, w, bias = operand(op, 0), operand(op, 1), operand(op, 2)
    if x is None or x.params is None or w is None or w.params is None or w.data is None:
        return False
    signed = x.params.scheme.grid.signed
    if x.params.scale.size != 1 or (signed and x.params.zero_point.any()) or w.params.zero_point.any():
        return False
    return bias is None or bias.constant is not None


def product(op: Op, _: Network) -> bool:
    """A matrix of two axes on the right, neither operand scaled or turned."""
    w = operand(op, 1)
    alike = all(float(op.attributes.get(k, 1.0)) == 1.0 for k in ("alpha", "beta"))
    return w is not None and w.data is not None and w.data.ndim == 2 and alike and not op.attributes.get("transA", 0)
