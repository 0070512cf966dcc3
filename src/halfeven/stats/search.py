"""Least squared error: the range whose grid serves a density best.

    scheme                     searched                                how
    symmetric                  threshold T                             87 values from absmax down to absmax / 2048, in
                                                                       steps of 2**(1/8), then finer around the best
    affine, one-sided data     the end that is not zero                the same
    affine, two-sided data     both ends                               15 fractions of each end and 0, all pairs, then
                                                                       finer around the best pair
    power-of-two scales        exponent, and zero point if affine      12 exponents; zero points likewise

Every candidate is judged with the rounded zero point and float32 scale that it would really get (`params_for`). The
error as a function of the range is smooth but for ripples of one step's clipping, about 1/255 of the range, so that
refining around the best coarse value ends within a fraction of a percent of the least error; the range itself is less
certain, as the optimum is flat.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.scheme import ScaleRule, Scheme
from halfeven.stats.density import Density, Errors
from halfeven.stats.histogram import Histogram

Judge: TypeAlias = Callable[[npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.float64]]

FINE = 2.0 ** (-np.arange(0, 89) / 8)
COARSE = np.append(2.0 ** (-np.arange(0, 15) / 2), 0.0)
REFINEMENTS = (2.0**0.25, 2.0**0.1, 2.0**0.04, 2.0**0.015, 2.0**0.006)
EXPONENTS = 12


def least_error_range(histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """The range of least expected squared error."""
    return range_of_least(Errors(Density.of(histogram), scheme), histogram, scheme)


def range_of_least(errors: Judge, histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """The range with the least of `errors`, which takes the lows and the highs of n ranges."""
    low, high = histogram.extrema.low, histogram.extrema.high
    two_sided = not scheme.symmetric and low < 0 < high
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        return _powers(errors, scheme, histogram)
    if two_sided:
        return _both_ends(errors, low, high)
    return _threshold(errors, histogram)


def _threshold(errors: Judge, histogram: Histogram) -> tuple[float, float]:
    """The best `[-T, T]`, less what holds no data."""
    low, high = histogram.within(np.inf)
    most = max(-low, high)
    candidates = most * FINE
    for ratio in (*REFINEMENTS[1:], 1.0):
        best = candidates[np.argmin(errors(np.maximum(low, -candidates), np.minimum(high, candidates)))]
        candidates = np.minimum(best * ratio ** np.linspace(-1.5, 1.5, 15), most)
    return histogram.within(float(best))


def _both_ends(errors: Judge, low: float, high: float) -> tuple[float, float]:
    """The best `[a * low, b * high]`."""
    a, b = (grid.ravel()[:-1] for grid in np.meshgrid(COARSE, COARSE, indexing="ij"))  # the last pair is (0, 0)
    for ratio in (*REFINEMENTS, 1.0):
        best = np.argmin(errors(a * low, b * high))
        steps = ratio ** np.arange(-3, 4)
        pair = np.meshgrid(np.minimum(a[best] * steps, 1.0), np.minimum(b[best] * steps, 1.0), indexing="ij")
        a, b = (one.ravel() for one in pair)
    return float(a[0] * low), float(b[0] * high)


def _powers(errors: Judge, scheme: Scheme, histogram: Histogram) -> tuple[float, float]:
    """The best power-of-two scale, and zero point if it is free."""
    low, high = histogram.extrema.low, histogram.extrema.high
    grid, span = scheme.grid, scheme.grid.high - scheme.grid.low
    reach = max(-low, high) / grid.high if scheme.symmetric else (max(high, 0.0) - min(low, 0.0)) / span
    scales = 2.0 ** (np.ceil(np.log2(reach)) - np.arange(EXPONENTS))
    if scheme.symmetric:
        thresholds = scales * grid.high
        return histogram.within(float(thresholds[np.argmin(errors(-thresholds, thresholds))]))
    lowest = np.array([0.0] if low >= 0 else [1.0] if high <= 0 else np.linspace(0, 1, 33)) * span
    spread = span / 32
    while True:
        scale, below = (one.ravel() for one in np.meshgrid(scales, np.unique(np.rint(lowest)), indexing="ij"))
        best = np.argmin(errors(-below * scale, (span - below) * scale))
        if lowest.size == 1 or spread < 1:
            return 0.0 - float(below[best] * scale[best]), float((span - below[best]) * scale[best])
        lowest = np.clip(below[best] + spread * np.linspace(-1, 1, 17), 0, span)
        scales, spread = scale[best : best + 1], spread / 8
