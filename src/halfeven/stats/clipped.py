"""The clipped normal distribution: what a clamp makes of a normal one.

For x = min(max(m + d z, a), b), z standard normal, with alpha = (a - m) / d, beta = (b - m) / d, phi the density and
Phi the distribution function of z (Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix C):

    E[x]   = a Phi(alpha) + m (Phi(beta) - Phi(alpha)) - d (phi(beta) - phi(alpha)) + b (1 - Phi(beta))
    E[x^2] = a^2 Phi(alpha) + (m^2 + d^2) (Phi(beta) - Phi(alpha))
             - d ((m + b) phi(beta) - (m + a) phi(alpha)) + b^2 (1 - Phi(beta))

where a bound is infinite its terms are 0. A deviation of 0 is a constant: min(max(m, a), b).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import erf
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_erf = np.vectorize(erf, otypes=[np.float64])


@dataclass(frozen=True, eq=False)
class Clipped:
    """Of each channel: mean and deviation of the normal, and the bounds, each float64 of shape (C,)."""

    mean: Doubles
    deviation: Doubles
    low: Doubles
    high: Doubles

    @classmethod
    def normal(cls, mean: Doubles, deviation: Doubles) -> "Clipped":
        """Without bounds."""
        return cls(mean, deviation, np.full(mean.shape, -np.inf), np.full(mean.shape, np.inf))

    def within(self, low: Doubles | float, high: Doubles | float) -> "Clipped":
        """Clipped once more, to bounds of shape (C,) or ()."""
        ends = (np.clip(end, low, high) for end in (self.low, self.high))
        return Clipped(self.mean, self.deviation, *ends)

    def moments(self) -> tuple[Doubles, Doubles]:
        """Mean and variance of what is clipped, each of shape (C,)."""
        safe = np.where(self.deviation > 0, self.deviation, 1.0)
        low, high = (self.low - self.mean) / safe, (self.high - self.mean) / safe
        below, above = _cumulative(low), 1.0 - _cumulative(high)
        inside = 1.0 - below - above
        a, b = (np.where(np.isfinite(end), end, 0.0) for end in (self.low, self.high))
        at_low, at_high = _density(low), _density(high)
        first = a * below + self.mean * inside - safe * (at_high - at_low) + b * above
        second = a**2 * below + (self.mean**2 + safe**2) * inside + b**2 * above
        second = second - safe * ((self.mean + b) * at_high - (self.mean + a) * at_low)
        still = np.clip(self.mean, self.low, self.high)
        mean = np.where(self.deviation > 0, first, still)
        variance = np.where(self.deviation > 0, np.maximum(second - first**2, 0.0), 0.0)
        return mean, variance

    def range(self, deviations: float) -> tuple[Doubles, Doubles]:
        """Lowest and highest value within so many deviations of the normal's mean, each of shape (C,)."""
        reach = deviations * self.deviation
        return np.clip(self.mean - reach, self.low, self.high), np.clip(self.mean + reach, self.low, self.high)

    def sample(self, count: int, deviations: float) -> npt.NDArray[np.float32]:
        """`count` values at evenly spaced probabilities, and both ends of `range`; shape (C, count + 2)."""
        z = np.concatenate([[-deviations], np.clip(_quantiles(count), -deviations, deviations), [deviations]])
        x = self.mean[:, None] + self.deviation[:, None] * z
        return np.asarray(np.clip(x, self.low[:, None], self.high[:, None]), np.float32)


def _density(z: Doubles) -> Doubles:
    return np.asarray(np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi))  # of infinities 0


def _cumulative(z: Doubles) -> Doubles:
    return np.asarray(0.5 * (1.0 + _erf(z / np.sqrt(2.0))))


@lru_cache(16)
def _quantiles(count: int) -> Doubles:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
