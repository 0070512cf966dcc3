"""Observer: fills an Observation, in place and quickly.

Histograms of samples are added into one array for each bin width met (the widths are few, as they are powers of two);
they are brought to one width at the end. The result is that of `Observation.then`, sample by sample.
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.bins import BINS, Counts, bins_to, coarsen, exponent_for, sides
from halfeven.numerics.native import histogram
from halfeven.stats.histogram import Histogram
from halfeven.stats.observation import Observation, stride_for
from halfeven.stats.summary import Extrema, MovingAverage, float32_of


class Observer:
    """Takes the tensors of samples in, one at a time."""

    def __init__(self, limit: int) -> None:
        """Count at most about `limit` elements of each tensor."""
        self.limit = limit
        self.low, self.high, self.size, self.nans, self.infs, self.zeros = np.inf, -np.inf, 0, 0, 0, 0
        self.moving = MovingAverage()
        self.bins: dict[int, Counts] = {}

    def take(self, x: npt.NDArray[np.generic]) -> int:
        """Take one sample's tensor in; returns how many NaN it holds."""
        if x.size == 0:
            return 0
        (low, high, nans, infs), zeros, counts = histogram(float32_of(x), stride_for(x.size, self.limit))
        self.moving = self.moving.move(Extrema(low, high, x.size, nans, infs))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.size, self.nans, self.infs, self.zeros = (
            self.size + x.size,
            self.nans + nans,
            self.infs + infs,
            self.zeros + zeros,
        )
        if counts.size:
            exponent = exponent_for(low, high)
            into = self.bins.get(exponent)
            if into is None:
                into = self.bins[exponent] = np.zeros(2 * BINS, np.int64)
            start = BINS - bins_to(min(low, 0.0), exponent)
            into[start : start + counts.size] += counts
        return nans

    def observation(self) -> Observation:
        """What was taken in so far."""
        extrema = Extrema(self.low, self.high, self.size, self.nans, self.infs)
        if extrema.empty:
            return Observation(Histogram(extrema, self.zeros), self.moving)
        exponent = exponent_for(self.low, self.high)
        negative, positive = sides(self.low, self.high, exponent)
        total = np.zeros(negative + positive, np.int64)
        for narrow, counts in self.bins.items():
            wide, below = coarsen(counts, BINS, exponent - narrow)
            first, last = max(below - negative, 0), min(below + positive, wide.size)
            total[negative - (below - first) : negative + (last - below)] += wide[first:last]
        return Observation(Histogram(extrema, self.zeros, total), self.moving)
