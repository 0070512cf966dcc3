"""LiteRT's layers of int16 activations and int8 weights (16x8): alike in all sets of kernels, and in TFLite Micro.

    CONV_2D, DEPTHWISE_CONV_2D    acc = sum x w + bias, in 64 bits; int16x8 (`numerics.requant`)
    FULLY_CONNECTED               the same sum; float64_half_away, in Micro int16x8
    ADD, SUB                      double_rounding_16 (`numerics.elementwise`)
    MEAN                          as the reference kernels' of int8 (`numerics.litert`)

Activations are symmetric; the bias is int64. XNNPACK has no such kernels, and LiteRT's own leave 16 bits to the plain
loops. Source: LiteRT tflite/kernels/internal/reference/integer_ops/conv.h, depthwise_conv.h, fully_connected.h.
"""

from dataclasses import dataclass

import numpy as np

from halfeven.graph.network import Op
from halfeven.numerics.elementwise import Addition
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16
from halfeven.numerics.integer_ops import conv2d, matmul
from halfeven.numerics.litert import Kernels
from halfeven.numerics.requant import Requant, requantize
from halfeven.run.integer.conditions import (
    all_of,
    coded_bias,
    coded_output,
    one_scale,
    plain,
    same_params,
    spatial,
    types,
)
from halfeven.run.integer.layers import DOUBLE, Derivation, window_of
from halfeven.run.integer.litert_kernels import Difference, Mean, output
from halfeven.run.integer.litert_layers import Clamped, Extreme, MatrixProduct
from halfeven.run.integer.machine import Array, Arrays, Rule, Run, affine, code_type, given, params_of
from halfeven.run.integer.pointwise import Sum

BITS = 64


@dataclass(frozen=True)
class WideLayer:
    """A layer of 16-bit activations; `multiplier` derives that of each channel from the three scales."""

    multiplier: Derivation
    flavour: Requant = Requant.INT16X8

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        out, dtype = output(op, Kernels.REFERENCE), code_type(op.outputs[0])
        m = self.multiplier(affine(op, 0).scale, params_of(op, 1).scale.ravel(), out.affine.scale)
        groups, turned = int(op.attributes.get("group", 1)), bool(op.attributes.get("transB", 0))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x, w, bias = given(arrays, 0), given(arrays, 1), arrays[2] if len(arrays) > 2 else None
            added = 0 if bias is None else bias
            if op.kind == "Conv":
                window = window_of(op, x.shape[2:], w.shape[2:])
                acc = conv2d(x, w, 0, 0, added, window.strides, window.pads, window.dilations, groups, BITS)
                scale = np.reshape(m, (-1, 1, 1))
            else:
                acc, scale = matmul(x, w.T if turned else w, 0, 0, added, BITS), m
            codes = requantize(acc, scale, out.affine.zero_point, out.low, out.high, self.flavour)
            return (codes.astype(dtype),)

        return run


TWO = (all_of(INT16), one_scale(0, 1), coded_output)
LAYERS = (types((INT16, INT8), (INT16, INT8_NARROW)), coded_output, coded_bias(), one_scale(0))
MICRO_WIDE = Rule(("Gemm",), WideLayer(DOUBLE), LAYERS)
WIDE_RULES = (
    Rule(("Conv",), WideLayer(DOUBLE), (*LAYERS, spatial(2))),
    Rule(("Gemm",), WideLayer(DOUBLE, Requant.FLOAT64_HALF_AWAY), LAYERS),
    Rule(("MatMul",), MatrixProduct(Requant.INT16X8), (*TWO, plain)),
    Rule(("Add",), Clamped(Sum(Addition.DOUBLE_ROUNDING_16), Kernels.REFERENCE), TWO),
    Rule(("Sub",), Clamped(Difference(Addition.DOUBLE_ROUNDING_16), Kernels.REFERENCE), TWO),
    Rule(("GlobalAveragePool", "ReduceMean"), Mean(Kernels.REFERENCE), (types((INT16,)), coded_output, plain)),
    Rule(("Max", "Min"), Extreme(), (*TWO, same_params)),
)
"""Rules of all of LiteRT's sets; `MICRO_WIDE` stands before them in TFLite Micro."""
