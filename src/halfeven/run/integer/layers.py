"""Conv, MatMul and Gemm on codes: sums of products, a bias, and one change of scale.

    acc    = sum (x - zx) (w - zw) + bias                    int32; the bias as codes of scale sx * sw
    codes  = requantize(acc, M) as the flavour says          M = sx * sw / sy in float32 or float64, times Gemm's alpha
    real   = float32(acc) * float32(sx * sw)                 where no quantization follows

A bias of real numbers becomes codes by half_even(b / float32(sx * sw)), as ONNX Runtime's optimiser does silently.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.graph.network import Op
from halfeven.numerics.accumulate import Weights, conv_codes, conv_sums, matrix_codes, matrix_sums
from halfeven.numerics.multiplier import float_multiplier, real_multiplier
from halfeven.numerics.packed import Settled
from halfeven.numerics.product_pairs import Pairs
from halfeven.numerics.requant import Requant
from halfeven.numerics.windows import Window, explicit_pads
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Run,
    affine,
    code_type,
    constant_codes,
    given,
    operand,
    params_of,
    result,
)

Scales = npt.NDArray[np.float32]
Derivation = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.float64]]
SINGLE: Derivation = float_multiplier
DOUBLE: Derivation = real_multiplier


@dataclass(frozen=True)
class Layer:
    """How a machine computes layers. `pairs`: how two products of 8 bits are added."""

    requant: Requant = Requant.FLOAT32_HALF_EVEN
    multiplier: Derivation = SINGLE
    pairs: Pairs = Pairs.EXACT

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer that an operator is."""
        held = operand(op, 1)
        stays = self._weights(op, constant_codes(held), threads) if held is not None and held.data is not None else None
        zero, settled = affine(op, 0).zero_point, self._settled(op) if op.outputs[0].coded else None
        scales, added = _scales(op), operand(op, 2)
        fixed = [] if added is None or added.data is None else [_bias(op, constant_codes(added))]
        windows: dict[tuple[int, ...], Window] = {}

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            bias = fixed[0] if fixed else None if added is None else _bias(op, given(arrays, 2))
            weights = stays or self._weights(op, given(arrays, 1), threads)
            if op.kind == "Conv":
                if x.shape[2:] not in windows:
                    windows[x.shape[2:]] = window_of(op, x.shape[2:], weights.codes.shape[2:])
                window = windows[x.shape[2:]]
                if settled is not None:
                    return (conv_codes(x, weights, zero, window, bias, settled),)
                acc = conv_sums(x, weights, zero, window, bias)
                return (acc.astype(np.float32) * scales.reshape((-1,) + (1,) * (acc.ndim - 2)),)
            a = x.T if op.kind == "Gemm" and op.attributes.get("transA", 0) else x
            rows = a[None] if a.ndim == 1 else a
            made: Array
            if settled is not None:
                made = matrix_codes(rows, weights, zero, bias, settled)
            else:
                made = matrix_sums(rows, weights, zero, bias).astype(np.float32) * scales
            return (made[..., 0, :] if a.ndim == 1 else made,)

        return run

    def _weights(self, op: Op, codes: Array, threads: int) -> Weights:
        turned = op.kind == "Gemm" and bool(op.attributes.get("transB", 0))
        zeros = params_of(op, 1).zero_point.ravel()
        groups = int(op.attributes.get("group", 1)) if op.kind == "Conv" else 1
        return Weights(codes.T if turned else codes, zeros, groups, pairs_of(op, 1, self.pairs), threads)

    def _settled(self, op: Op) -> Settled:
        out = result(op)
        alpha = np.float32(op.attributes.get("alpha", 1.0)) if op.kind == "Gemm" else np.float32(1)
        m = self.multiplier(alpha * np.float32(affine(op, 0).scale), params_of(op, 1).scale.ravel(), out.affine.scale)
        return Settled(m, self.requant, out.affine.zero_point, (out.low, out.high), code_type(op.outputs[0]))


def pairs_of(op: Op, port: int, pairs: Pairs) -> Pairs:
    """How products with the weights at `port` are added: the kernels that wrap take constant weights only."""
    held = operand(op, port)
    computed = held is None or held.data is None
    return Pairs.EXACT if computed and pairs is Pairs.WRAPPING else pairs


def _scales(op: Op) -> Scales:
    """What a real output is multiplied by, in this order: alpha, the input's scale, the weights'."""
    alpha = np.float32(op.attributes.get("alpha", 1.0)) if op.kind == "Gemm" else np.float32(1)
    return np.asarray(alpha * np.float32(affine(op, 0).scale) * params_of(op, 1).scale.ravel(), np.float32)


def window_of(op: Op, size: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window of a Conv or pool over an input of spatial shape `size`."""
    rank = len(size)
    strides = tuple(op.attributes.get("strides", (1,) * rank))
    dilations = tuple(op.attributes.get("dilations", (1,) * rank))
    pads = tuple(op.attributes.get("pads", (0,) * (2 * rank)))
    auto = str(op.attributes.get("auto_pad", "NOTSET"))
    found = explicit_pads(auto, size, kernel, strides, dilations, pads)
    return Window(tuple(kernel), strides, found, dilations, bool(op.attributes.get("ceil_mode", 0)))


def _bias(op: Op, array: Array) -> npt.NDArray[np.int32]:
    if array.dtype.kind != "f":
        return array.astype(np.int32, copy=False)
    scale = np.float32(affine(op, 0).scale) * params_of(op, 1).scale.ravel()
    return np.asarray(np.clip(np.rint(array / scale), -(2.0**31), 2.0**31 - 1), np.int64).astype(np.int32)
