"""ACIQ: the clip that minimises the expected squared error of a normal or a Laplace distribution fitted to the data.

Banner et al. 2018, arXiv:1810.05723. With n steps on one side of zero (128 for 8 bits on both sides, 256
for 8 bits on one), a step is alpha / n wide and makes the error alpha**2 / (12 n**2); for M bits on both sides that is
alpha**2 / (3 * 4**M), as there. Two-sided, with deviation sigma, or b = E|x - mean|:

    normal      (alpha**2 + sigma**2) erfc(alpha / (sigma sqrt 2))
                - alpha sigma sqrt(2 / pi) exp(-alpha**2 / 2 sigma**2) + alpha**2 / (12 n**2)
    Laplace     2 b**2 exp(-alpha / b) + alpha**2 / (12 n**2)

Each has its least where its derivative vanishes, which it does once:

    normal      erfc(t / sqrt 2) - sqrt(2 / pi) exp(-t**2 / 2) / t + 1 / (12 n**2) = 0,       t = alpha / sigma
    Laplace     t exp(t) = 12 n**2,                                                           t = alpha / b

    bits            2         3         4         5         6         7         8
    normal, t       1.710635  2.151593  2.559136  2.936201  3.286914  3.615114  3.924035
    Laplace, t      2.830683  3.897229  5.028640  6.204766  7.413126  8.645620  9.896760

The range is mean - alpha .. mean + alpha. One-sided data are taken for the half of a distribution around zero (what a
ReLU leaves; zeros do not count), so sigma**2 = E[x**2] and b = E|x|, and all codes lie on the one side.

ncnn guesses sigma from the extrema of N values: sigma = 2 absmax c / sqrt(2 ln N), c = 0.175 (1 + sqrt(pi ln 4)), and
takes t of the table (tools/quantize/ncnn2table.cpp).
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.scheme import Scheme
from halfeven.stats.density import Density, Errors
from halfeven.stats.histogram import Histogram
from halfeven.stats.spread import Spread, within

NCNN_ALPHA = (0.0, 1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714)
NCNN_SPREAD = 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4)))


def normal_error(alpha: float, steps: float) -> float:
    """Expected squared error of clipping N(0, 1) at `alpha`, `steps` steps on either side."""
    tail = math.erfc(alpha / math.sqrt(2))
    edge = math.sqrt(2 / math.pi) * math.exp(-alpha * alpha / 2)
    return (alpha * alpha + 1) * tail - alpha * edge + alpha * alpha / (12 * steps * steps)


def laplace_error(alpha: float, steps: float) -> float:
    """Expected squared error of clipping Laplace(0, 1) at `alpha`, `steps` steps on either side."""
    return 2 * math.exp(-alpha) + alpha * alpha / (12 * steps * steps)


@cache
def normal_clip(steps: float) -> float:
    """The `alpha` of least `normal_error`, in deviations."""

    def slope(t: float) -> float:
        edge = math.sqrt(2 / math.pi) * math.exp(-t * t / 2)
        return t * math.erfc(t / math.sqrt(2)) - edge + t / (12 * steps * steps)

    return _root(slope, 40.0)


@cache
def laplace_clip(steps: float) -> float:
    """The `alpha` of least `laplace_error`, in units of E|x|."""
    return _root(lambda t: t - 12 * steps * steps * math.exp(-t), 100.0)


def _root(slope: Callable[[float], float], high: float) -> float:
    """Where `slope`, negative near 0, positive at `high`, vanishes: by halving, to the last bit."""
    low = 0.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return high


def aciq_range(histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """Of the normal's and the Laplace distribution's clip, the one with the less expected squared error on the data."""
    ranges = [aciq_clip(histogram, scheme, laplace) for laplace in (False, True)]
    lows, highs = zip(*ranges, strict=True)
    return ranges[int(np.argmin(Errors(Density.of(histogram), scheme)(lows, highs)))]


def aciq_clip(histogram: Histogram, scheme: Scheme, laplace: bool) -> tuple[float, float]:
    """The range for a fitted normal, or Laplace, distribution."""
    grid, spread = scheme.grid, Spread.of(Density.of(histogram))
    one_sided = histogram.extrema.low >= 0 or histogram.extrema.high <= 0
    levels = 2.0**grid.bits
    steps = levels if one_sided and not (scheme.symmetric and grid.signed) else levels / 2
    clip = laplace_clip(steps) if laplace else normal_clip(steps)
    if one_sided:
        size = spread.magnitude / spread.share if laplace else math.sqrt(spread.square / spread.share)
        return within(histogram, scheme, -clip * size, clip * size)
    size = spread.distance if laplace else spread.deviation
    return within(histogram, scheme, spread.mean - clip * size, spread.mean + clip * size)


def ncnn_aciq(reach: float, count: int, bits: int = 8) -> float:
    """Threshold of ncnn on |x|, of `count` values with magnitudes up to `reach`.

    Raises:
        BadOption: bits are not 2 to 8.
        BadCalibration: fewer than 2 values.
    """
    if not 2 <= bits <= 8:
        raise BadOption(f"ncnn ACIQ: bits={bits}; its table has 2 to 8.")
    if count < 2:
        raise BadCalibration(f"ncnn ACIQ: {count} values were seen; it takes the deviation from 2 or more.")
    deviation = float(np.float32(reach)) * 2 * NCNN_SPREAD / math.sqrt(2 * math.log(count))
    return float(np.float32(float(np.float32(NCNN_ALPHA[bits - 1])) * deviation))
