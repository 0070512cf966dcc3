"""Which output channel can overflow, told from weights, zero points, grid and bias, before any data is seen.

An accumulator is sum_k (x_k - zx) * d_k + b with d_k = w_k - zw and each x_k free in low..high. The term of k is
largest at x_k = high if d_k > 0 and at low if d_k < 0, and the x_k are independent, so with P = sum of the positive
d_k and N = sum of the negative ones, for each channel

    highest = P * (high - zx) + N * (low - zx) + b          lowest = P * (low - zx) + N * (high - zx) + b

Both are reached by some input (where inputs overlap, as in a convolution, by some output's), so the report neither
misses an overflow nor cries wolf. A register of two's complement that wraps on the way and ends in range is right in
the end; one that saturates is not. For the latter (`saturating`) the extremes of all partial sums count, whatever the
order: each term, and the bias, at its best or not yet there,

    highest = sum_k max(0, terms of k) + max(0, b)          lowest = sum_k min(0, terms of k) + min(0, b)

Pairs (x86 VPMADDUBSW, see `integer_ops`): the sum of two products of raw uint8 codes with int8 weights is between
high * (min(w0, 0) + min(w1, 0)) and high * (max(w0, 0) + max(w1, 0)), and saturates beyond 16 bits: with high = 255
weights of at most 64 in magnitude are safe.

Biases: int32 codes half_even(b / (sx * sw)) may not fit when a weight scale is tiny.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption

AnyCodes = npt.NDArray[np.integer]


@dataclass(frozen=True)
class ChannelRange:
    """What one output channel's accumulator, of `bits` bits, can reach: `lowest` to `highest`, both attained."""

    channel: int
    lowest: int
    highest: int
    bits: int

    @property
    def bound(self) -> int:
        """The largest magnitude."""
        return max(-self.lowest, self.highest)

    @property
    def limit(self) -> int:
        """The largest positive number that the accumulator holds."""
        return (1 << (self.bits - 1)) - 1

    @property
    def can_overflow(self) -> bool:
        """Whether some input leaves the accumulator's range."""
        return self.highest > self.limit or self.lowest < -self.limit - 1

    @property
    def bits_needed(self) -> int:
        """The narrowest accumulator that holds both ends."""
        return 1 + max(self.highest.bit_length(), (~self.lowest).bit_length() if self.lowest < 0 else 0)

    @property
    def advice(self) -> str:
        """One sentence: what was found and what to do; empty if it cannot."""
        if not self.can_overflow:
            return ""
        over = self.bits_needed - self.bits
        return (
            f"Channel {self.channel} can reach {self.lowest} to {self.highest}, beyond {self.bits} bits: accumulate in "
            f"{self.bits_needed} bits, split the sum, or use weights of {over} bit{'s' * (over > 1)} less."
        )


@dataclass(frozen=True)
class PairRange:
    """What a sum of two neighbouring products in one output channel can reach, and how many can leave 16 bits."""

    channel: int
    lowest: int
    highest: int
    saturating_pairs: int

    @property
    def can_saturate(self) -> bool:
        """Whether some input saturates some pair."""
        return self.saturating_pairs > 0

    @property
    def advice(self) -> str:
        """One sentence: what was found and what to do; empty if nothing can saturate."""
        if not self.can_saturate:
            return ""
        return (
            f"Channel {self.channel}: {self.saturating_pairs} pairs of products can reach {self.lowest} to "
            f"{self.highest}, beyond 16 bits, on x86 without VNNI: use weights of 7 bits, or uint8 weights."
        )


@dataclass(frozen=True)
class BiasRange:
    """One output channel's bias as a code, which needs more than the bias has bits or not."""

    channel: int
    code: float
    bits: int

    @property
    def can_overflow(self) -> bool:
        """Whether the code does not fit."""
        limit = 1 << (self.bits - 1)
        return not -limit <= self.code < limit

    @property
    def advice(self) -> str:
        """One sentence: what was found and what to do; empty if the code fits."""
        if not self.can_overflow:
            return ""
        factor = abs(self.code) / (1 << (self.bits - 1))
        return (
            f"Channel {self.channel}: the bias needs the code {self.code:.6g}, beyond {self.bits} bits: make the "
            f"weight scale at least {factor:.3g} times as large, or keep the bias in float."
        )


def accumulator_ranges(
    weight: AnyCodes,
    input_low: int,
    input_high: int,
    input_zero_point: int = 0,
    weight_zero_point: npt.ArrayLike = 0,
    bias: npt.ArrayLike = 0,
    bits: int = 32,
    axis: int = 0,
    saturating: bool = False,
) -> tuple[ChannelRange, ...]:
    """The range of each output channel's accumulator; `axis` of `weight` counts the channels, all others are summed.

    `weight_zero_point` and `bias` are scalars or one a channel. Exact for weights of up to 32 bits.

    Raises:
        BadOption: `input_low` > `input_high`.
    """
    if input_low > input_high:
        raise BadOption(f"Overflow: no input code lies between {input_low} and {input_high}.")
    rows = _rows(weight, axis)
    channels = len(rows)
    d = rows - np.broadcast_to(np.asarray(weight_zero_point, np.int64), (channels,))[:, None]
    positive, negative = np.maximum(d, 0).sum(1).tolist(), np.minimum(d, 0).sum(1).tolist()
    biases = np.broadcast_to(np.asarray(bias, np.int64), (channels,)).tolist()
    low, high = input_low - input_zero_point, input_high - input_zero_point
    if saturating:
        low, high = min(low, 0), max(high, 0)
    found = []
    for channel, (p, n, b) in enumerate(zip(positive, negative, biases, strict=True)):
        down, up = (min(b, 0), max(b, 0)) if saturating else (b, b)
        found.append(ChannelRange(channel, p * low + n * high + down, p * high + n * low + up, bits))
    return tuple(found)


def pair_ranges(weight: AnyCodes, input_high: int = 255, axis: int = 0) -> tuple[PairRange, ...]:
    """The range of VPMADDUBSW's sums in each output channel of int8 `weight`, for uint8 codes 0..`input_high`.

    Pairs are neighbours along the other axes in C order: lay the weight out as the kernel reads it.
    """
    rows = _rows(weight, axis)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    highs = input_high * (np.maximum(rows[:, 0::2], 0) + np.maximum(rows[:, 1::2], 0))
    lows = input_high * (np.minimum(rows[:, 0::2], 0) + np.minimum(rows[:, 1::2], 0))
    beyond = ((highs > 32767) | (lows < -32768)).sum(1)
    ends = zip(lows.min(1, initial=0), highs.max(1, initial=0), beyond, strict=True)
    return tuple(PairRange(c, int(low), int(high), int(count)) for c, (low, high, count) in enumerate(ends))


def bias_ranges(
    bias: npt.ArrayLike, input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike, bits: int = 32
) -> tuple[BiasRange, ...]:
    """The code half_even(bias / (input_scale * weight_scale)), in float64, of each channel's float bias."""
    b, sx, sw = (np.atleast_1d(np.asarray(part, np.float64)) for part in (bias, input_scale, weight_scale))
    codes = np.rint(b / (sx * sw))
    return tuple(BiasRange(channel, float(code), bits) for channel, code in enumerate(codes))


def _rows(weight: AnyCodes, axis: int) -> npt.NDArray[np.int64]:
    """`weight` as int64 of shape (channels, summed)."""
    moved = np.moveaxis(weight, axis, 0)
    return moved.reshape(len(moved), -1).astype(np.int64)
