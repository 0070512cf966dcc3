"""Spread: mean, deviation and mean magnitude of a histogram's values; ranges and scales that follow from these alone.

    method   range or scale                          source
    sigma    mean - k sigma .. mean + k sigma        Nagel et al. 2019, arXiv:1906.04721 (k = 6)
    lsq      scale = 2 E|x| / sqrt(high)             Esser et al. 2020, arXiv:1902.08153

Neither minimises an error: sigma's objective is the coverage, at least 1 - 1 / k**2 of the values (Chebyshev), and all
but 2e-9 of a normal distribution for k = 6; LSQ's scale is where the training of a scale begins, and is too wide to
quantize with at 8 bits.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.quantize import TINY
from halfeven.numerics.scheme import Scheme
from halfeven.stats.density import Density
from halfeven.stats.histogram import Histogram

SIGMAS = 6.0


@dataclass(frozen=True)
class Spread:
    """Moments of a density, whose values are spread evenly within each bin.

    Holds: `share` is that of the values that are not zero; `magnitude` = E|x|, `square` = E[x**2], `mean`, all over all
    values; `deviation` = sqrt(E[(x - mean)**2]), `distance` = E|x - mean|.
    """

    mean: float
    deviation: float
    distance: float
    magnitude: float
    square: float
    share: float

    @classmethod
    def of(cls, density: Density) -> "Spread":
        """Of the values of `density`, which holds at least one."""
        a, b, total = density.edges[:-1], density.edges[1:], density.total
        share, zeros = density.counts / total, density.zeros / total
        mean = float((share * (a + b)).sum() / 2)
        square = float((share * (a * a + a * b + b * b)).sum() / 3)
        magnitude = float((share * np.abs(a + b)).sum() / 2)
        c, d = a - mean, b - mean
        deviation = float(np.sqrt((share * (c * c + c * d + d * d)).sum() / 3 + zeros * mean * mean))
        distance = _distance(a, b, share, mean) + zeros * abs(mean)
        return cls(mean, deviation, distance, magnitude, square, float(share.sum()))


def _distance(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], share: npt.NDArray[np.float64], mean: float
) -> float:
    """E|x - mean| of what lies in the bins; the bin that holds the mean is cut there."""
    cut = np.clip(mean, a, b)
    halves = (cut - a) * np.abs(mean - (a + cut) / 2) + (b - cut) * np.abs((b + cut) / 2 - mean)
    return float((share * halves / (b - a)).sum())


def sigma_range(histogram: Histogram, scheme: Scheme, sigmas: float = SIGMAS) -> tuple[float, float]:
    """The mean and `sigmas` deviations on either side, as far as there are values; zeros count.

    Raises:
        BadOption: `sigmas` is not above zero.
    """
    if not 0 < sigmas < np.inf:
        raise BadOption(f"sigma: sigmas={sigmas}; a number of deviations above 0 was expected, for instance 6.")
    spread = Spread.of(Density.of(histogram))
    low, high = spread.mean - sigmas * spread.deviation, spread.mean + sigmas * spread.deviation
    return within(histogram, scheme, low, high)


def within(histogram: Histogram, scheme: Scheme, low: float, high: float) -> tuple[float, float]:
    """[low, high] widened to hold zero, less what holds no data; symmetric schemes: the wider end on both sides."""
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme.symmetric:
        return histogram.within(max(-low, high))
    least, most = histogram.within(np.inf)
    return max(low, least), min(high, most)


def lsq_scale(x: npt.NDArray[np.float32], scheme: Scheme) -> npt.NDArray[np.float32]:
    """LSQ's first scale of a tensor `x`, shape `scheme.tiling.scale_shape(x.shape)`: 2 E|x| / sqrt(high) of each tile.

    A tile of zeros gets 1.
    """
    shape = scheme.tiling.scale_shape(x.shape)
    split = [d for n, size in zip(shape, x.shape, strict=True) for d in (n, size // n if n else 0)]
    mean = np.abs(x.reshape(split)).mean(axis=tuple(range(1, 2 * x.ndim, 2)), dtype=np.float64)
    scale = 2 * mean / np.sqrt(scheme.grid.high)
    return np.where(scale < TINY, 1.0, scale).astype(np.float32).reshape(shape)
