"""LPBQ: scales of blocks of weights that are whole multiples of one float32 scale of their output channel.

A kernel of low power then multiplies the sum of a block by a small integer, and only the sum of sums by a real number.

    f = absmax of the channel's weights / highest code / 2**bits       float32; the last division is exact
    k of 1 ... 2**bits                                                 the one with the least squared error of its block
    scale of the block = k f                                           float32, as the graph of the file's reader has it

AIMET takes k = round(scale / f) of each block's own scale absmax / highest code. The least error is never above that of
its k, and of weights of 4 bits seldom where nothing is clipped. A channel of zeros has scales of 2**-bits.

Source: AIMET's documentation, Low-Power Blockwise Quantization; its encodings have k as `per_block_int_scale` and f as
`per_channel_float_scale` (2.0.0) or `scale` (1.0.0).
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.quantize import Array
from halfeven.numerics.ragged import fake_quantize_ragged, filled
from halfeven.numerics.scheme import QParams, Scheme

Steps = npt.NDArray[np.int64]


def lpbq_params(x: Array, scheme: Scheme, channel: int) -> QParams:
    """The parameters of weights in blocks.

    Args:
        x: float32 weights, finite.
        scheme: symmetric integers, with runs along one axis; the last run may be short.
        channel: The axis of output channels.

    Returns:
        Scales of ceil(length / run) elements along each axis of the tiling.
    """
    most = 1 << scheme.grid.bits
    others = tuple(axis for axis in range(x.ndim) if axis != channel % x.ndim)
    factor = (np.abs(x).max(others, keepdims=True, initial=0) / np.float32(scheme.grid.high * most)).astype(np.float32)
    factor = np.where(factor < np.finfo(np.float32).tiny, np.float32(1 / most), factor)
    shape = scheme.tiling.scale_shape(filled(x, scheme.tiling).shape)
    steps, least = np.ones(shape, np.int64), np.full(shape, np.inf)
    for step in range(1, most + 1):
        error = _errors(x, _params(scheme, np.full(shape, step), factor))
        steps, least = np.where(error < least, step, steps), np.minimum(error, least)
    return _params(scheme, steps, factor)


def lpbq_parts(params: QParams, channel: int) -> tuple[Steps, Array] | None:
    """The whole multiples, of the shape of the scales, and the channels' scales, of 1 along other axes.

    None: the scales are no such products, bit for bit, or there is a zero point.
    """
    if params.zero_point.any() or not 0 <= channel < params.scale.ndim or not params.scale.size:
        return None
    scale, most = params.scale, 1 << params.scheme.grid.bits
    others = tuple(axis for axis in range(scale.ndim) if axis != channel)
    largest = scale.max(others, keepdims=True)
    found = np.zeros(largest.shape, bool)
    steps, factor = np.ones(scale.shape, np.int64), np.ones(largest.shape, np.float32)
    for top in range(most, 0, -1):  # the largest multiple of a channel may be less than all
        for near in _around(largest / np.float32(top)):
            tried = np.rint(scale.astype(np.float64) / near).astype(np.int64)
            fits = ((tried >= 1) & (_scale(tried, near) == scale)).all(others, keepdims=True) & ~found
            steps, factor, found = np.where(fits, tried, steps), np.where(fits, near, factor), found | fits
    return (steps, factor) if found.all() else None


def _around(x: Array) -> tuple[Array, Array, Array]:
    """A quotient and its neighbours: one of these is what was multiplied."""
    return x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(0))


def _scale(steps: Steps, factor: Array) -> Array:
    return np.asarray(steps.astype(np.float32) * factor, np.float32)


def _params(scheme: Scheme, steps: Steps, factor: Array) -> QParams:
    return QParams(scheme, _scale(steps, factor), np.zeros(steps.shape, np.int32))


def _errors(x: Array, params: QParams) -> npt.NDArray[np.float64]:
    """The squared error of each block."""
    gap = filled(fake_quantize_ragged(x, params).astype(np.float64) - x, params.scheme.tiling)
    cut = [d for n, size in zip(params.scale.shape, gap.shape, strict=True) for d in (n, size // n)]
    return np.asarray(np.square(gap).reshape(cut).sum(tuple(range(1, 2 * x.ndim, 2))))
