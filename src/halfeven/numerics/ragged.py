"""Ragged tilings: runs along an axis whose length they do not divide; the last run is short.

    axis of 70, runs of 32       32, 32, 6: three scales

`Tiling.scale_shape` refuses such a cut, as most formats do. ONNX (DequantizeLinear with `block_size`, from opset 21 on)
and MatMulNBits allow it. The tensor is filled up with zeros to a multiple of the run, and what was added is cut off
again: every range holds zero, so zeros change no scale and no code. Where the runs divide the axis, these functions are
`params_of`, `quantize`, `dequantize` and `fake_quantize` themselves.

Source: ONNX operators, DequantizeLinear-21: "block_size ... ceil(Di / Si)".
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.quantize import Array, dequantize, params_of, quantize
from halfeven.numerics.scheme import QParams, Scheme, Tiling


def is_ragged(shape: tuple[int, ...], tiling: Tiling) -> bool:
    """Whether some run does not divide its axis of a tensor of `shape`."""
    return any(shape[axis] % run for axis, run in tiling.tiles)


def filled(x: npt.NDArray[np.generic], tiling: Tiling) -> npt.NDArray[np.generic]:
    """`x` with zeros behind, so that each run divides its axis."""
    if not is_ragged(x.shape, tiling):
        return x
    more = [(0, 0)] * x.ndim
    for axis, run in tiling.tiles:
        more[axis] = 0, -x.shape[axis] % run
    return np.pad(x, more)


def ragged_params(x: Array, scheme: Scheme) -> QParams:
    """Min-max parameters; along each axis the scale has ceil(length / run) elements."""
    return params_of(np.asarray(filled(x, scheme.tiling), np.float32), scheme)


def quantize_ragged(x: Array, params: QParams) -> npt.NDArray[np.integer]:
    """Codes of `x`, of its shape."""
    codes = quantize(np.asarray(filled(x, params.scheme.tiling), np.float32), params)
    return np.ascontiguousarray(codes[tuple(slice(0, n) for n in x.shape)])


def dequantize_ragged(codes: npt.NDArray[np.integer], params: QParams) -> Array:
    """Values of `codes`, float32, of their shape."""
    values = dequantize(np.asarray(filled(codes, params.scheme.tiling), codes.dtype), params)
    return np.ascontiguousarray(values[tuple(slice(0, n) for n in codes.shape)])


def fake_quantize_ragged(x: Array, params: QParams) -> Array:
    """What codes of `x` stand for, float32, of its shape."""
    return dequantize_ragged(quantize_ragged(x, params), params)
