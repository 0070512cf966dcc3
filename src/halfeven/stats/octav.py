"""OCTAV: the threshold T of least squared error, where clipping counts exactly, and rounding as a step squared / 12.

    J(T) = step(T)**2 / 12 * P(0 < |x| <= T)  +  E[(|x| - T)**2; |x| > T]

Sakr et al. 2022, arXiv:2206.06501: step(T) = T / n, n = 2**(bits - 1) there, here the scale that the range
[-T, T], less what holds no data, gets under the scheme. Zeros cost nothing, as zero is a code. Newton's method,
of J with P held and step proportional to T, is

    T  <-  E[|x|; |x| > T] / (P(0 < |x| <= T) * (step / T)**2 / 12 + P(|x| > T))

`newton_clip` is that, from the mean magnitude, over a tensor's values. Its fixed point lies a little above the least
J (2 % at 3 bits, nothing at 8), as P held means that a value no longer clipped is taken not to be rounded either.
Where values are sparse J has many local minima, and Newton may end in one, or swing between two.

`octav_range` minimises J itself: it is taken at every edge of a histogram, Newton starts from the least, and the least
of all these is the threshold. With power-of-two scales J is taken at what symmetric grids of such scales reach.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.quantize import params_for
from halfeven.numerics.scheme import ScaleRule, Scheme
from halfeven.stats.density import Density
from halfeven.stats.histogram import Histogram

Doubles: TypeAlias = npt.NDArray[np.float64]

ITERATIONS = 20
LEAST = float(np.finfo(np.float32).smallest_subnormal)  # no float32 magnitude lies below, so no threshold need


def newton_clip(x: npt.NDArray[np.float32], steps: float, rounds: int = ITERATIONS) -> float:
    """The paper's threshold on |x| of a tensor of any shape, `steps` steps on one side: 2**(bits - 1) there.

    0 if all values are zero.
    """
    size = np.abs(x[x != 0]).astype(np.float64)
    if not size.size:
        return 0.0
    threshold = float(size.mean())
    for _ in range(rounds):
        beyond = size > threshold
        inside = size.size - np.count_nonzero(beyond)
        threshold = float(size[beyond].sum() / (inside / (12 * steps * steps) + np.count_nonzero(beyond)))
    return threshold


class Clipping:
    """J of thresholds, of one histogram under one scheme."""

    def __init__(self, histogram: Histogram, scheme: Scheme) -> None:
        density = Density.of(histogram).folded()
        self._scheme, self._ends = scheme, histogram.within(np.inf)
        self.edges, share = density.edges, density.counts / density.total
        a, b = self.edges[:-1], self.edges[1:]
        parts = (share, share * (a + b) / 2, share * (a * a + a * b + b * b) / 3)
        self._below = [np.concatenate([[0.0], np.cumsum(one)]) for one in parts]

    def step(self, thresholds: Doubles) -> Doubles:
        """The scale of the grid for [-T, T], less what holds no data."""
        low, high = np.maximum(self._ends[0], -thresholds), np.minimum(self._ends[1], thresholds)
        return params_for(low, high, self._scheme).scale.astype(np.float64)

    def moments(self, thresholds: Doubles) -> tuple[Doubles, ...]:
        """P(0 < |x| <= T), and P, E|x|, E[x**2] of |x| > T."""
        at = np.clip(np.searchsorted(self.edges, thresholds, side="right") - 1, 0, self.edges.size - 2)
        a, b = self.edges[at], self.edges[at + 1]
        t = np.clip(thresholds, a, b)
        height = (self._below[0][at + 1] - self._below[0][at]) / (b - a)
        cut = (height * (t - a), height * (t * t - a * a) / 2, height * (t**3 - a**3) / 3)
        below = [prefix[at] + one for prefix, one in zip(self._below, cut, strict=True)]
        above = [np.maximum(prefix[-1] - one, 0.0) for prefix, one in zip(self._below, below, strict=True)]
        return below[0], *above

    def __call__(self, thresholds: Doubles) -> Doubles:
        """J, shape of `thresholds`."""
        inside, beyond, first, second = self.moments(thresholds)
        clipped = np.maximum(second - 2 * thresholds * first + thresholds**2 * beyond, 0.0)
        clipped = np.where(thresholds >= self.edges[-1], 0.0, clipped)
        return self.step(thresholds) ** 2 / 12 * inside + clipped

    def newton(self, thresholds: Doubles) -> Doubles:
        """One step of Newton's method from `thresholds`, none of them 0; where it leads to nothing, the same again."""
        inside, beyond, first, _ = self.moments(thresholds)
        weight = inside * (self.step(thresholds) / thresholds) ** 2 / 12 + beyond
        moved = np.where(weight > 0, first / np.where(weight > 0, weight, 1.0), thresholds)
        return np.where(moved > 0, np.clip(moved, LEAST, self.edges[-1]), thresholds)


def octav_range(histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """The range of the threshold of least J: `[-T, T]`, less what holds no data."""
    clipping = Clipping(histogram, scheme)
    if scheme.scale is ScaleRule.POWER_OF_TWO:
        most = np.ceil(np.log2(clipping.edges[-1] / scheme.grid.high))
        tried = 2.0 ** np.arange(most - 20, most + 1) * scheme.grid.high
        return histogram.within(float(tried[np.argmin(clipping(tried))]))
    tried = clipping.edges[1:]
    for _ in range(ITERATIONS):
        best = tried[np.argmin(clipping(tried)), None]
        moved = clipping.newton(best)
        tried = np.concatenate([best, moved, (best + moved) / 2])
        if moved[0] == best[0]:
            break
    return histogram.within(float(tried[np.argmin(clipping(tried))]))
