"""Bins: intervals of a power-of-two width, into which float32 values fall without rounding.

    x > 0    bin   m        m = trunc(|x| * 2**-exponent)       [m * width, (m + 1) * width)
    x < 0    bin  -1 - m                                        (-(m + 1) * width, -m * width]
    x = 0    no bin; zeros are counted on their own

Multiplying by a power of two is exact (what underflows has m = 0 anyhow), so no value lands in its neighbour's bin. Two
bins make one of twice the width: bin >> 1. The exponent is the least for which the bins between `low`, 0 and `high`
number at most `BINS`: a function of the extrema alone, never smaller for more data. Hence a histogram is a function of
the multiset of its values, and histograms merge exactly, in any order; there are over `BINS` / 2 bins on a one-sided
range, and over `BINS` / 4 on the longer side of any, unless it is narrower than `BINS` / 2 times 2**-126.
"""

import math

import numpy as np
import numpy.typing as npt

BINS = 4096
MIN_EXPONENT = -126

Counts = npt.NDArray[np.int64]


def bins_to(edge: float, exponent: int) -> int:
    """How many bins lie between 0 and the value `edge`, on either side."""
    return 1 + int(math.ldexp(abs(edge), -exponent)) if edge else 0


def sides(low: float, high: float, exponent: int) -> tuple[int, int]:
    """How many bins lie below zero, and above."""
    return bins_to(min(low, 0.0), exponent), bins_to(max(high, 0.0), exponent)


def exponent_for(low: float, high: float) -> int:
    """The least exponent that fits `[low, high]` and 0 into `BINS` bins of width 2**exponent."""
    most = max(-low, high)
    if not most > 0:
        return MIN_EXPONENT
    exponent = max(math.frexp(most)[1] - 12, MIN_EXPONENT)
    return exponent + (sum(sides(low, high, exponent)) > BINS)


def bin_of(x: npt.NDArray[np.float32], exponent: int) -> npt.NDArray[np.int32]:
    """The bin of each element of `x`, finite and not zero, of magnitude below 2**(exponent + 13)."""
    m = (np.abs(x) * np.float32(2.0**-exponent)).astype(np.int32)
    return np.where(x < 0, ~m, m)


def coarsen(counts: Counts, negative: int, shift: int) -> tuple[Counts, int]:
    """Put 2**shift bins into one; `counts` starts with `negative` bins below zero. Returns the same two."""
    if shift == 0:
        return counts, negative
    shift = min(shift, BINS.bit_length())
    run = 1 << shift
    below, above = -(-negative // run), -(-(counts.size - negative) // run)
    padded = np.zeros((below + above) * run, np.int64)
    padded[below * run - negative :][: counts.size] = counts
    return padded.reshape(-1, run).sum(axis=1), below
