"""Density: a histogram read as a distribution, with values evenly spread within each bin.

The outermost bins reach only to the extrema, which are exact (but for 2**-10 of a bin, so that none is empty), and
zeros sit at zero. From it follow quantiles, and the squared error which a grid makes (numerics/native.py has the
integral). Even spread is what makes grids comparable whose step is not much wider than a bin: bin centres would call
a grid perfect that has a code at each.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.native import LANES, grid_errors
from halfeven.numerics.quantize import params_for
from halfeven.numerics.scheme import Scheme
from halfeven.stats.histogram import Histogram

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Density:
    """Piecewise constant, with an atom at zero.

    Holds: `edges`, ascending, shape (n + 1,), has 0 at index `negative`; `counts` between them, shape (n,).
    """

    edges: Doubles
    counts: Doubles
    negative: int
    zeros: int

    @classmethod
    def of(cls, histogram: Histogram) -> "Density":
        """The distribution of a histogram's values."""
        width, low, high = 2.0**histogram.exponent, histogram.extrema.low, histogram.extrema.high
        negative, bins = histogram.negative, histogram.counts.size
        edges = width * np.arange(-negative, bins - negative + 1, dtype=np.float64)
        if negative:
            edges[0] = min(low, edges[1] - width / 1024)
        if bins > negative:
            edges[-1] = max(high, edges[-2] + width / 1024)
        return cls(edges, histogram.counts.astype(np.float64), negative, histogram.zeros)

    @property
    def total(self) -> float:
        """Number of values."""
        return float(self.counts.sum()) + self.zeros

    def folded(self) -> "Density":
        """The distribution of |x|."""
        below, above = self.counts[: self.negative][::-1], self.counts[self.negative :]
        longer = max(below.size, above.size)
        counts = np.pad(below, (0, longer - below.size)) + np.pad(above, (0, longer - above.size))
        mirrored, edges = -self.edges[: self.negative + 1][::-1], self.edges[self.negative :].copy()
        if below.size > above.size:
            edges = mirrored
        elif below.size == above.size:
            edges[-1] = max(edges[-1], mirrored[-1])
        return Density(edges, counts, 0, self.zeros)

    def quantile(self, fraction: float, upper: bool) -> float:
        """The value below which `fraction` of all lie; among several the least if `upper`, else the greatest."""
        n = self.negative
        places = np.concatenate([self.edges[: n + 1], self.edges[n:]])
        steps = np.concatenate([[0.0], self.counts[:n], [self.zeros], self.counts[n:]])
        below = np.cumsum(steps)
        target = min(max(fraction, 0.0), 1.0) * below[-1]
        i = int(np.searchsorted(below, target, side="left" if upper else "right"))
        i = min(max(i, 1), below.size - 1)
        if below[i] == below[i - 1]:
            return float(places[i - 1])
        share = (target - below[i - 1]) / (below[i] - below[i - 1])
        return float(places[i - 1] + share * (places[i] - places[i - 1]))

    def weights(self) -> tuple[Doubles, Doubles]:
        """Edges and weights for `numerics.native.grid_errors`."""
        heights = np.concatenate([[0.0], self.counts / np.diff(self.edges), [0.0]])
        padding = (0, -self.edges.size % LANES)
        return np.pad(self.edges, padding), np.pad(heights[:-1] - heights[1:], padding)


class Errors:
    """Mean squared errors of ranges under one scheme, over one density."""

    def __init__(self, density: Density, scheme: Scheme) -> None:
        self._scheme, self._total = scheme, max(density.total, 1.0)
        self._edges, self._weights = density.weights()

    def __call__(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Doubles:
        """Errors of the n ranges from `low` to `high`, shape (n,), each with the scale and zero point it would get."""
        params = params_for(np.atleast_1d(low), np.atleast_1d(high), self._scheme)
        zero, grid = params.zero_point.astype(np.float64), self._scheme.grid
        scale = params.scale.astype(np.float64)
        errors = grid_errors(self._edges, self._weights, scale, grid.low - zero, grid.high - zero)
        return np.maximum(errors, 0.0) / self._total


def expected_error(histogram: Histogram, low: float, high: float, scheme: Scheme) -> float:
    """Mean squared error of the histogram's values on the grid which `scheme` has for `[low, high]`."""
    return float(Errors(Density.of(histogram), scheme)(low, high)[0])
