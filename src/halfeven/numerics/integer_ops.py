"""Matrix product and convolution on codes, with an integer accumulator: the definition that fast kernels must meet.

    acc[m, n]       = sum_k (a[m, k] - za) * (b[k, n] - zb[n]) + bias[n]
    acc[i, o, y, x] = sum_c,r,s (X[i, c, y * stride + r * dilation - pad, ...] - zx) * (W[o, c, r, s] - zw[o]) + bias[o]

(Jacob et al. 2018, arXiv:1712.05877, equation 4; ONNX MatMulInteger, ConvInteger, QLinearConv.) Offsets are widened
before they are multiplied: 20 - 50 = -30 is no uint8. A pad counts as zx, a real zero, so it adds nothing. Per-channel
zero points and biases run along b's columns, and along W's first axis.

The sum is modulo 2**accumulator_bits, as a register of two's complement holds it: in any order, with any grouping, the
same. `halfeven.numerics.overflow` tells beforehand whether it can wrap. With symmetric weights (zb = 0) equation 7 of
the paper,

    sum q1 q2 - za sum_k q2 - zb sum_k q1 + K za zb

keeps only its first two terms, and the second is a constant that joins the bias.

One unit does not sum like that: x86 VPMADDUBSW, which AVX2 and AVX512BW kernels without VNNI use for uint8 times int8,
saturates each sum of two neighbouring products (in K) to 16 bits. `matmul_saturating_pairs` does the same.
Sources: Intel SDM; ONNX Runtime's and oneDNN's documents name the effect and advise weights of 7 bits.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.shifts import Integers, saturate, wrap

AnyCodes = npt.NDArray[np.integer]

_EXACT = 1 << 53


def matmul(
    a: AnyCodes,
    b: AnyCodes,
    a_zero_point: npt.ArrayLike = 0,
    b_zero_point: npt.ArrayLike = 0,
    bias: npt.ArrayLike = 0,
    accumulator_bits: int = 32,
) -> Integers:
    """Accumulators, int64 array of shape (..., M, N), of codes `a` (..., M, K) and `b` (..., K, N).

    `b_zero_point` and `bias` are scalars or have shape (N,); `a_zero_point` is a scalar or broadcasts against `a`.

    Raises:
        BadOption: the shapes do not fit.
    """
    if a.ndim < 1 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise BadOption(
            f"Integer matmul: shapes {a.shape} and {b.shape} do not multiply; want (..., M, K), (..., K, N)."
        )
    left = a.astype(np.int64) - np.asarray(a_zero_point, np.int64)
    right = b.astype(np.int64) - np.asarray(b_zero_point, np.int64)
    return wrap(_product(left, right) + np.asarray(bias, np.int64), accumulator_bits)


def conv2d(
    x: AnyCodes,
    weight: AnyCodes,
    x_zero_point: int = 0,
    weight_zero_point: npt.ArrayLike = 0,
    bias: npt.ArrayLike = 0,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    accumulator_bits: int = 32,
) -> Integers:
    """Accumulators, int64 array of shape (N, O, H', W'), of codes `x` (N, C, H, W) and `weight` (O, C / groups, R, S).

    `pads` are (top, left, bottom, right), as in ONNX. `weight_zero_point` and `bias` are scalars or have shape (O,).

    Raises:
        BadOption: the shapes, groups, strides, pads or dilations do not fit.
    """
    columns = patches(x, weight.shape, strides, pads, dilations, groups, x_zero_point)
    out = weight.shape[0]
    zero = np.broadcast_to(np.asarray(weight_zero_point, np.int64), (out,)).reshape(out, 1)
    rows = (weight.reshape(out, -1).astype(np.int64) - zero).reshape(groups, out // groups, -1)
    n, _, _, height, width = columns.shape
    flat = columns.reshape(n, groups, -1, height * width).astype(np.int64) - x_zero_point
    acc = _product(rows, flat).reshape(n, out, height, width)
    added = np.broadcast_to(np.asarray(bias, np.int64), (out,)).reshape(out, 1, 1)
    return wrap(acc + added, accumulator_bits)


def patches(
    x: AnyCodes,
    weight_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    pad_code: int,
) -> AnyCodes:
    """What each output of a convolution sees: codes of shape (N, groups, C / groups * R * S, H', W'), pads `pad_code`.

    Raises:
        BadOption: as `conv2d`.
    """
    _check(x.shape, weight_shape, strides, pads, dilations, groups)
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=pad_code)
    reach = [(k - 1) * d + 1 for k, d in zip(weight_shape[2:], dilations, strict=True)]
    if padded.shape[2] < reach[0] or padded.shape[3] < reach[1]:
        raise BadOption(f"Integer conv2d: a kernel that reaches {reach} does not fit in padded {padded.shape[2:]}.")
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    seen = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    n, _, height, width = seen.shape[:4]
    taps = int(np.prod(weight_shape[1:]))
    return seen.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, taps, height, width)


def matmul_saturating_pairs(a: AnyCodes, b: AnyCodes) -> Integers:
    """uint8 `a` (M, K) times int8 `b` (K, N) by VPMADDUBSW: int64 array (M, N); no zero points, an odd K gets a zero.

    Raises:
        BadOption: the shapes do not fit, or the codes are not uint8 and int8.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise BadOption(f"Integer matmul: shapes {a.shape} and {b.shape} do not multiply; want (M, K) and (K, N).")
    if a.dtype != np.uint8 or b.dtype != np.int8:
        raise BadOption(f"Saturating pairs: {a.dtype} times {b.dtype} was given; the instruction is uint8 times int8.")
    odd = a.shape[1] % 2
    left = np.pad(a.astype(np.int64), ((0, 0), (0, odd)))
    right = np.pad(b.astype(np.int64), ((0, odd), (0, 0)))
    products = left[:, :, None] * right
    return wrap(saturate(products[:, 0::2] + products[:, 1::2], 16).sum(1), 32)


def _product(left: Integers, right: Integers) -> Integers:
    """The matrix product in int64; through float64, which NumPy multiplies faster, where that is exact."""
    depth = left.shape[-1]
    largest = [int(np.abs(part).max(initial=0)) for part in (left, right)]
    if largest[0] * largest[1] * depth < _EXACT:
        return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)
    return left @ right


def _check(
    x: Sequence[int],
    weight: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> None:
    if len(x) != 4 or len(weight) != 4:
        raise BadOption(f"Integer conv2d: shapes {x} and {weight} were given; want (N, C, H, W) and (O, C, R, S).")
    if groups < 1 or x[1] != weight[1] * groups or weight[0] % groups:
        raise BadOption(f"Integer conv2d: {x[1]} channels, weight {weight} and {groups} groups do not fit.")
    if len(pads) != 4 or min(pads) < 0 or len(strides) != 2 or len(dilations) != 2 or min(*strides, *dilations) < 1:
        raise BadOption(
            f"Integer conv2d: strides {strides}, pads {pads}, dilations {dilations} were given; want 2 from 1 on, "
            "4 from 0 on, 2 from 1 on."
        )
