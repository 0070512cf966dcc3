"""Entropy calibration: the threshold on |x| whose quantized distribution diverges least from the clipped one.

The procedure of S. Migacz, "8-bit Inference with TensorRT", GTC 2017, over bins h_0 ... h_(n-1) of |x| (1025 to 2048
of them). For each threshold of i bins, i = levels ... n:

    P    h_0 ... h_(i-1), and all beyond added to the last
    Q    the same bins without what is beyond, merged i // levels at a time into `levels` runs, the last taking the
         remainder; each run's sum is spread evenly over its bins that are not empty
    KL   sum of P * log(P / Q), both made to sum to 1; infinite where Q is empty and P is not

and the threshold is (i + 1/2) bins for the first least KL, but not beyond the data. Where implementations differ: exact
zeros are not counted (ncnn; TensorRT leaves out the whole first bin), empty bins of Q stay empty and nothing is
smoothed (TensorRT; MXNet and ONNX Runtime smooth), the candidates go in steps of one.

Each run's contribution needs only its sum S, its number z of bins that are not empty, and its sum A of h * log(h):
sum h * log(h / (S / z)) = A - S * log(S / z). Prefix sums give these, and all runs but the last depend on i // levels
only; so the whole search costs O(n), and needs no C++.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.bins import coarsen
from halfeven.numerics.scheme import ScaleRule, Scheme
from halfeven.stats.histogram import Histogram

Doubles: TypeAlias = npt.NDArray[np.float64]

THRESHOLD_BINS = 2048
TINY = float(np.finfo(np.float64).tiny)


def entropy_range(histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """The range of least divergence: `[-threshold, threshold]`, less what holds no data.

    Levels are the codes on one side: all of an affine grid for data on one side of zero, else half of them.
    With power-of-two scales only thresholds that a grid reaches exactly compete.
    """
    low, high = histogram.extrema.low, histogram.extrema.high
    grid, one_sided = scheme.grid, low >= 0 or high <= 0
    codes = grid.high - grid.low + 1
    levels = grid.high + 1 if scheme.symmetric else codes if one_sided else codes // 2
    counts, width = magnitudes(histogram)
    if counts.size <= levels:
        return low, high
    thresholds = np.arange(levels, counts.size + 1)
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        reach = 2.0 ** np.arange(-30, 31) * 2.0**histogram.exponent * (levels - 1)
        thresholds = np.unique(np.clip(np.rint(reach / width - 0.5), levels, counts.size)).astype(np.int64)
    best = int(thresholds[np.argmin(divergences(counts, levels, thresholds))])
    return histogram.within((best + 0.5) * width)


def magnitudes(histogram: Histogram) -> tuple[Doubles, float]:
    """Counts of |x| over at most 2048 bins, and their width."""
    below, above = histogram.counts[: histogram.negative][::-1], histogram.counts[histogram.negative :]
    counts = np.zeros(max(below.size, above.size), np.int64)
    counts[: below.size] += below
    counts[: above.size] += above
    shift = int(counts.size > THRESHOLD_BINS)
    return coarsen(counts, 0, shift)[0].astype(np.float64), 2.0 ** (histogram.exponent + shift)


def divergences(counts: Doubles, levels: int, thresholds: npt.NDArray[np.int64]) -> Doubles:
    """KL of each threshold, in nats; `counts` of |x|, `thresholds` in bins, from `levels` to `counts.size`."""
    sums, filled, logs = (_prefix(one) for one in (counts, counts > 0, counts * _log(counts)))
    total, run, final = sums[-1], thresholds // levels, thresholds - 1
    start, until, height = (levels - 1) * run, sums[thresholds], counts[final]
    beyond = total - until
    s, z, last = until - sums[start], filled[thresholds] - filled[start], height + beyond
    a = logs[final] - logs[start] + last * _log(last)
    full = _full_runs(sums, filled, logs, levels, int(run.max()))
    divergence: Doubles = (full[run] + a - (s + beyond) * _log(s / np.maximum(z, 1))) / total + _log(until / total)
    divergence[(until == 0) | ((beyond > 0) & (height == 0))] = np.inf
    return divergence


def _full_runs(sums: Doubles, filled: Doubles, logs: Doubles, levels: int, most: int) -> Doubles:
    """The part of the divergence, times the total, of all runs of 0 ... `most` bins but the last, shape (most + 1,)."""
    edges = np.arange(most + 1)[:, None] * np.arange(levels)
    s, z, a = (one[:, 1:] - one[:, :-1] for one in (sums[edges], filled[edges], logs[edges]))
    return np.asarray((a - s * _log(s / np.maximum(z, 1))).sum(axis=1))


def _prefix(values: npt.NDArray[np.generic]) -> Doubles:
    found = np.zeros(values.size + 1)
    np.cumsum(values, out=found[1:])
    return found


def _log(values: Doubles) -> Doubles:
    """Natural logarithm; finite at 0, where it is multiplied by 0 or stands for a threshold that is left out."""
    return np.asarray(np.log(np.maximum(values, TINY)))
