"""Where codes begin and end: QuantizeLinear, DequantizeLinear, and Requantize from codes to codes.

ONNX Runtime has no kernel from codes to codes: it makes them real and quantizes again, each step rounded to float32.
"""

from dataclasses import dataclass

import numpy as np

from halfeven.graph.network import Op, Tensor
from halfeven.numerics.quantize import Array as Floats
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams
from halfeven.run.integer.machine import Array, Arrays, Quantizer, Run, given, params_of


def half_even_codes(x: Floats, params: QParams) -> Array:
    """ONNX Runtime's QuantizeLinear: float32 division, half to even, NaN the lowest code."""
    return quantize(np.asarray(x, np.float32), params)


def to_real(tensor: Tensor, codes: Array) -> Array:
    """The real numbers that a tensor's codes stand for."""
    assert tensor.params is not None
    return dequantize(codes, ranked(tensor.params, codes.ndim))


def to_codes(tensor: Tensor, real: Array, quantizer: Quantizer = half_even_codes) -> Array:
    """The codes of real numbers in a tensor."""
    assert tensor.params is not None
    return quantizer(real, ranked(tensor.params, real.ndim))


def ranked(params: QParams, rank: int) -> QParams:
    """Parameters whose scale has the rank of the tensor; one scale may have any."""
    if params.scale.ndim == rank or params.scale.size > 1:
        return params
    return QParams(params.scheme, params.scale.reshape((1,) * rank), params.zero_point.reshape((1,) * rank))


@dataclass(frozen=True)
class ToCodes:
    """QuantizeLinear with constant parameters."""

    quantizer: Quantizer = half_even_codes

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes of the operand."""
        return lambda arrays: (to_codes(op.outputs[0], given(arrays, 0), self.quantizer),)


@dataclass(frozen=True)
class ToReal:
    """DequantizeLinear with constant parameters."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Real numbers of the operand."""
        params = params_of(op, 0)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            codes = given(arrays, 0)
            return (dequantize(codes, ranked(params, codes.ndim)),)

        return run


@dataclass(frozen=True)
class Through:
    """Requantize by way of real numbers."""

    quantizer: Quantizer = half_even_codes

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes of the operand's real numbers."""
        params = params_of(op, 0)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            codes = given(arrays, 0)
            return (to_codes(op.outputs[0], dequantize(codes, ranked(params, codes.ndim)), self.quantizer),)

        return run
