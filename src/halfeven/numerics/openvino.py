"""OpenVINO's CPU kernels on codes: from an int32 sum to a real number, and from there to a code.

    real   = f32(f32(f32(acc) ss) + bias)            ss = f32(sx sw), one for each output channel; bias real
    code   = clip(half_even(fma(real, isc, f32(ish + low))), low, high)         a FakeQuantize in the layer before it
    code   = clip(half_even(fma(x, isc, ish)), 0, high - low) + low             one of its own, of open shapes
    isc    = f32(high - low) / f32(ih - il)          ish = f32(-il f32(high - low)) / f32(ih - il)
    il, ih   limits of the FakeQuantize: `numerics.fake_quantize.openvino_limits`

Where all shapes are fixed, a FakeQuantize of its own is compiled otherwise, and is the profile `openvino`: product and
sum rounded apart, ish = f32(-il isc). Where the weights have one scale for all channels, OpenVINO multiplies constants
together beforehand:

    code   = clip(half_even(fma(f32(acc), f32(ss isc), f32(f32(bias isc) + f32(ish + low)))), low, high)

A number that real numbers are multiplied by before, w, and one that is added then, v, move into the limits: for il and
ih stand f32(f32(il - v) / w) and f32(f32(ih - v) / w).

A sum that became part of a convolution adds the other operand's codes, r. The convolution's own FakeQuantize, of scale
sq and zero point zq, is merged with what makes its codes real in units of sr; it clips and does not round:

    k = f32(sq / sr)        shift = f32(zq + f32(f32(sr zr) / sq))
    ol = f32(f32(low - shift) k)      oh = f32(f32(high - shift) k)      o = f32(f32(oh - ol) / f32(high - low))
    q    = clip(fma(real, f32(isc o), f32(f32(ish o) + ol)), ol, oh)     isc, ish of sq and zq
    code   of f32(q + r), clamped, as above, the limits il and ih being f32(il / sr) and f32(ih / sr)

Sources: OpenVINO 2026.4 CPU plugin, oneDNN 3.13, INFERENCE_PRECISION_HINT=f32, measured.
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.fake_quantize import openvino_limits
from halfeven.numerics.fused import Floats32, fma
from halfeven.numerics.scheme import QParams

Codes = npt.NDArray[np.integer]
ONE, ZERO = np.float32(1), np.float32(0)


def real_sums(acc: npt.NDArray[np.int32], scales: Floats32, bias: Floats32 | None) -> Floats32:
    """The real numbers that int32 sums stand for; `scales` and `bias` broadcast against them."""
    real = np.asarray(acc.astype(np.float32) * scales, np.float32)
    return real if bias is None else np.asarray(real + bias, np.float32)


def fused_codes(real: Floats32, params: QParams, unit: np.float32 = ONE, added: np.float32 = ZERO) -> Codes:
    """Codes of `real * unit + added` by a FakeQuantize that is part of a layer; in the dtype of the grid."""
    return _clipped(fma(real, *_line(params, unit, added)), params)


def lone_codes(real: Floats32, params: QParams) -> Codes:
    """Codes of real numbers by a FakeQuantize of its own, of open shapes; in the dtype of the grid."""
    grid = params.scheme.grid
    codes = np.clip(np.rint(fma(real, *_from_zero(params))), 0, grid.high - grid.low) + np.float32(grid.low)
    found: Codes = codes.astype(grid.dtype)
    return found


def sum_codes(
    real: Floats32, inner: QParams, codes: Codes, other: QParams, params: QParams, clamp: tuple[float, float] | None
) -> Codes:
    """Codes of a convolution's real numbers, whose codes were `inner`, plus codes of `other`."""
    grid, unit = inner.scheme.grid, _scale(other)
    factor, shift = _from_zero(inner)
    between = np.float32(_scale(inner) / unit)
    moved = np.float32(_zero(inner) + np.float32(np.float32(unit * _zero(other)) / _scale(inner)))
    low, high = (np.float32(np.float32(np.float32(code) - moved) * between) for code in (grid.low, grid.high))
    step = np.float32(np.float32(high - low) / np.float32(grid.high - grid.low))
    line = np.float32(factor * step), np.float32(np.float32(shift * step) + low)
    total = np.asarray(np.clip(fma(real, *line), low, high) + codes.astype(np.float32), np.float32)
    if clamp is not None:
        total = np.clip(total, np.float32(clamp[0]) / unit, np.float32(clamp[1]) / unit)
    return _clipped(fma(total, *_line(params, unit)), params)


def _scale(params: QParams) -> np.float32:
    return np.float32(params.scale.ravel()[0])


def _zero(params: QParams) -> np.float32:
    return np.float32(params.zero_point.ravel()[0])


def offsets_real(codes: npt.NDArray[np.generic], params: QParams) -> Floats32:
    """The real numbers of codes."""
    return np.asarray((codes.astype(np.float32) - _zero(params)) * _scale(params), np.float32)


def folded_codes(acc: npt.NDArray[np.int32], scales: Floats32, bias: Floats32 | None, params: QParams) -> Codes:
    """Codes of int32 sums whose weights have one scale."""
    factor, shift = _line(params)
    added = shift if bias is None else np.asarray(bias * factor + shift, np.float32)
    return _clipped(fma(acc.astype(np.float32), np.asarray(scales * factor, np.float32), added), params)


def _line(params: QParams, unit: np.float32 = ONE, added: np.float32 = ZERO) -> tuple[Floats32, Floats32]:
    """Factor and shift to codes from x, where x unit + added is real."""
    factor, shift = _from_zero(params, unit, added)
    return factor, np.asarray(shift + np.float32(params.scheme.grid.low), np.float32)


def _from_zero(params: QParams, unit: np.float32 = ONE, added: np.float32 = ZERO) -> tuple[Floats32, Floats32]:
    """The same, to codes that count from 0."""
    grid = params.scheme.grid
    limits = openvino_limits(_scale(params), _zero(params), grid.low, grid.high)
    low = np.asarray((limits.low - added) / unit, np.float32)
    high = np.asarray((limits.high - added) / unit, np.float32)
    levels = np.float32(grid.high - grid.low)
    factor, shift = levels / (high - low), -low * levels / (high - low)
    return np.asarray(factor, np.float32), np.asarray(shift, np.float32)


def _clipped(x: Floats32, params: QParams) -> Codes:
    grid = params.scheme.grid
    codes: Codes = np.clip(np.rint(x), grid.low, grid.high).astype(grid.dtype)
    return codes
