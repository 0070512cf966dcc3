"""Sums of two products in 16 bits, as ONNX Runtime's int8 kernels have them on two instruction sets.

    exact        32 bits throughout: x86 with VNNI, most kernels on Arm64
    saturating   x86 without VNNI, uint8 times int8: any two products may exceed 16 bits
                 (`integer_ops.matmul_saturating_pairs`). Depthwise kernels, which take a convolution of one channel to
                 one as well, do not, nor does ConvInteger, whose weights come first
    wrapping     Arm64, depthwise, both int8: two products exceed 16 bits only where all four codes are -128; 2**15
                 becomes -2**15, the sum is 2**16 too small

Wrapping kernels compute depthwise convolutions of a multiple of 8 channels whose weights are constant int8 codes with
zero point 0. Taps are numbered in the order of the kernel's elements, whatever its axes; a pair is

    2 k, 2 k + 1                      as a rule; the last of an odd number is alone
    (0, 2), (1, 3), (4, 6), (5, 7)    for 9 taps and a multiple of 16 channels

uint8 inputs are int8 there, less 128, so that code 0 is what overflows. Positions in the padding hold the zero point.

Measured on ONNX Runtime 1.31.1 under qemu (Cortex-A76): which taps pair, for 8 to 48 channels and kernels of 3 to 25
taps in one to three dimensions; `tests/golden` has recordings.
"""

from enum import StrEnum

import numpy as np

from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.windows import Window

LOST = np.int32(1 << 16)
_LOWEST = -128
_FAR = ((0, 2), (1, 3), (4, 6), (5, 7))


class Pairs(StrEnum):
    """Names how two products are added. The table above is its definition."""

    EXACT = "exact"
    SATURATING = "saturating"
    WRAPPING = "wrapping"


def paired_taps(taps: int, channels: int) -> tuple[tuple[int, int], ...]:
    """Which taps of a depthwise kernel are added in 16 bits, where sums wrap; none for other numbers of channels."""
    if channels % 8:
        return ()
    if taps == 9 and channels % 16 == 0:
        return _FAR
    return tuple((first, first + 1) for first in range(0, taps - 1, 2))


def overflowing(codes: AnyCodes) -> dict[tuple[int, int], AnyCodes]:
    """Of depthwise weights (C, 1, ...), int8: pairs of taps that are both -128 in some channels, and in which."""
    flat = codes.reshape(len(codes), -1) == _LOWEST
    found = {(a, b): np.flatnonzero(flat[:, a] & flat[:, b]) for a, b in paired_taps(flat.shape[1], len(codes))}
    return {pair: channels for pair, channels in found.items() if channels.size}


def depthwise(codes: AnyCodes, groups: int) -> bool:
    """Whether weights (O, C / groups, ...) are one filter for each channel, were it the only one."""
    return codes.ndim > 2 and groups == len(codes) and codes.shape[1] == 1


def wrapping_pairs(codes: AnyCodes, zero_point: AnyCodes, groups: int) -> int:
    """How many pairs of constant weights can make a sum wrap."""
    if codes.dtype != np.int8 or zero_point.any() or not depthwise(codes, groups):
        return 0
    return sum(int(channels.size) for channels in overflowing(codes).values())


def overflows(x: AnyCodes, codes: AnyCodes, zero: int, window: Window) -> AnyCodes:
    """How many pairs of each sum wrap: codes `x` (N, C, ...) and depthwise weights (C, 1, ...); int32 (N, C, ...)."""
    count = np.zeros((len(x), len(codes), *window.sizes(x.shape[2:])), np.int32)
    for (a, b), channels in overflowing(codes).items():
        low = window.gathered(x[:, channels], zero) == np.iinfo(x.dtype).min
        count[:, channels] += low[..., a] & low[..., b]
    return count
