"""The gradients of fake quantization: learned step sizes, and the straight-through estimator.

For values = fake_quantize(x), with r = x / scale, the codes' ends `low` and `high` less the zero point, v = r clipped
to them (NaN to `low`), and g the gradient of the values:

    inside = low < r < high                           gradient of x             g inside, else 0
    t = rint(v) - v inside, else v                    gradient of scale         sum of g * t
                                                      gradient of zero point    -scale * sum of g not inside

t is the derivative of the value by the scale if the rounding's own is taken to be 1: rint(r) - r between the ends, and
the end itself beyond. A value beyond an end, (end - zero_point) * scale, falls by scale as the zero point grows by one.
LSQ multiplies the scale's gradient by 1 / sqrt(elements * high) before the optimizer's step; that is the caller's.

With `clamp` (a, b), x is clipped to a..b first (NaN stays NaN), and its gradient is 0 unless a < x < b.

Each t is exact in float32. Sums are in float32 within a block of 512 elements of a channel's run, in 32 lanes (element
i goes to lane i mod 32, the lanes are then folded in halves), and in float64 over the blocks, row after row. So NumPy
and C++ have the same bits, and the error is that of sums of 21 terms (16 to a lane, 5 folds), however large the tensor.

Sources: Esser et al. 2020, "Learned step size quantization", arXiv:1902.08153, equations 3 and 5 (the same comparisons,
strict); Bhalgat et al. 2020, "LSQ+", arXiv:2004.09576, for the zero point. PyTorch's fake quantizers call `inside` what
rounds to a code, half a step more on either side.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics import native

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Gradients: TypeAlias = tuple[Floats, Floats, Floats]

LANES, BLOCK = 32, 512
OPEN: native.Ends = (-np.inf, np.inf)
"""A clamp that clips nothing."""


def lsq_backward(
    x: Floats,
    grad: Floats,
    scale: Floats,
    zero_point: npt.NDArray[np.int32],
    low: int,
    high: int,
    clamp: native.Ends = OPEN,
    threads: int = 1,
) -> Gradients:
    """Gradients of `x`, `scale` and `zero_point`, float32, each of the shape of what it belongs to.

    `x` and `grad`, the gradient of the fake-quantized values, are float32 of one shape; `scale` and `zero_point` have
    the shape that `Tiling.scale_shape` gives, or one element. `low` and `high` are codes of at most 16 bits. `threads`
    share the work where there is one scale; they change no bit.

    Raises:
        BadOption: shapes that do not fit, codes that are too wide, or scales on axes that are not neighbours.
    """
    if grad.shape != x.shape or zero_point.shape != scale.shape:
        raise BadOption(f"lsq_backward: shapes {x.shape}, {grad.shape}, {scale.shape}, {zero_point.shape} do not fit.")
    if high - low > 65535:
        raise BadOption(f"lsq_backward: the codes {low} to {high} need more than 16 bits.")
    parts = native.cut(x.shape, scale.shape)
    if parts is None:
        raise BadOption(
            f"lsq_backward: a scale of {scale.shape} for a tensor of {x.shape} is on axes with one between."
        )
    if scale.size == 1:
        found = native.lsq_backward_clamped(x, grad, scale.item(), zero_point.item(), (low, high), clamp, threads)
        if found is not None:
            return found[0], np.full(scale.shape, found[1], np.float32), np.full(scale.shape, found[2], np.float32)
    held = x if clamp == OPEN else np.minimum(np.maximum(x, np.float32(clamp[0])), np.float32(clamp[1]))
    fast = native.lsq_backward(held, grad, scale, zero_point, low, high)
    by_x, *sums = _lsq_backward(held, grad, scale, zero_point, (low, high), parts) if fast is None else fast
    passed = by_x if clamp == OPEN else np.where((x > clamp[0]) & (x < clamp[1]), by_x, np.float32(0))
    return passed, sums[0], sums[1]


def _lsq_backward(
    x: Floats,
    grad: Floats,
    scale: Floats,
    zero_point: npt.NDArray[np.int32],
    ends: tuple[int, int],
    parts: tuple[int, int, int],
) -> Gradients:
    channel = (1, parts[1], 1)
    step, zero = scale.reshape(channel), zero_point.reshape(channel).astype(np.float32)
    low, high = np.float32(ends[0]) - zero, np.float32(ends[1]) - zero
    g = grad.reshape(parts)
    with np.errstate(over="ignore", invalid="ignore"):
        r = x.reshape(parts) / step
    inside = (r > low) & (r < high)
    v = np.minimum(np.maximum(np.where(np.isnan(r), low, r), low), high)
    t = np.where(inside, np.rint(v) - v, v)
    with np.errstate(over="ignore", invalid="ignore"):  # gradients may overflow, or be infinite
        by_scale = _sums(g * t)
        beyond = _sums(np.where(inside, np.float32(0), g))
    by_zero = -scale.reshape(-1).astype(np.float64) * beyond + 0.0
    with np.errstate(over="ignore"):
        sums = (by_scale.astype(np.float32).reshape(scale.shape), by_zero.astype(np.float32).reshape(scale.shape))
    return np.where(inside, g, np.float32(0)).reshape(x.shape), *sums


def _sums(terms: Floats) -> Doubles:
    """Sums, shape (channels,), of terms of shape (outer, channels, inner), in the order of the docstring."""
    outer, channels, inner = terms.shape
    used = min(LANES, 1 << max(inner - 1, 0).bit_length())  # folding lanes that have no term changes nothing
    lines = min(BLOCK // used, -(-inner // used))
    blocks = -(-inner // max(used * lines, 1))
    padded = np.zeros((outer, channels, blocks * lines * used), np.float32)
    padded[:, :, :inner] = terms
    by_line = padded.reshape(outer, channels, blocks, lines, used)
    lanes = np.zeros((outer, channels, blocks, used), np.float32)
    for line in range(lines):
        lanes += by_line[:, :, :, line]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    sums = np.zeros(channels)
    for row in lanes[..., 0].transpose(0, 2, 1).reshape(outer * blocks, channels):
        sums += row
    return sums
