"""Distance: how far a computed array is from its reference.

    SQNR     10 * log10(sum r**2 / sum (r - o)**2) in dB; infinite if equal; 6.02 dB more for each bit
    cosine   sum r * o / sqrt(sum r**2 * sum o**2); 1 for two arrays of zeros, 0 if one of them is zero
    MSE      mean of (r - o)**2
    KL       sum p * log(p / q), for two histograms over the same bins, each made to sum to 1; in nats

`Fidelity` holds the sums of the first three, so that they extend over batches. Sums are of doubles, NumPy's pairwise
ones; merging adds doubles, which is exact to about 1e-16 but not associative to the last bit.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration

Array = npt.NDArray[np.generic]
BLOCK = 1 << 20


@dataclass(frozen=True)
class Fidelity:
    """Sums over pairs of reference r and other o; `Fidelity()` is empty.

    Holds: `signal` = sum r**2, `other` = sum o**2, `dot` = sum r * o, `noise` = sum (r - o)**2, `worst` = max |r - o|.
    """

    count: int = 0
    signal: float = 0.0
    other: float = 0.0
    dot: float = 0.0
    noise: float = 0.0
    worst: float = 0.0

    @classmethod
    def of(cls, reference: Array, other: Array) -> Self:
        """Sums over two arrays of one shape, in blocks, so that no copy of the whole is made.

        Raises:
            BadCalibration: the shapes differ.
        """
        if reference.shape != other.shape:
            raise BadCalibration(f"Arrays of shape {reference.shape} and {other.shape} cannot be compared.")
        flat, found = (np.ravel(reference), np.ravel(other)), cls()
        for start in range(0, reference.size, BLOCK):
            r, o = (one[start : start + BLOCK].astype(np.float64) for one in flat)
            with np.errstate(invalid="ignore"):  # inf - inf: the distance is NaN, and shows
                d = r - o
                signal, power, dot, noise = (float(np.sum(one)) for one in (r * r, o * o, r * o, d * d))
            found = found.merge(cls(r.size, signal, power, dot, noise, float(np.max(np.abs(d)))))
        return found

    def merge(self, other: "Fidelity") -> Self:
        """The sums over both."""
        worst = self.worst if self.worst > other.worst or math.isnan(self.worst) else other.worst
        return type(self)(
            self.count + other.count,
            self.signal + other.signal,
            self.other + other.other,
            self.dot + other.dot,
            self.noise + other.noise,
            worst,
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, dB."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0:
            return -math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two."""
        if self.signal == 0 or self.other == 0:
            return float(self.signal == self.other)
        ratio = self.dot / (math.sqrt(self.signal) * math.sqrt(self.other))
        return math.copysign(1.0, ratio) if abs(ratio) > 1 else ratio  # rounding only; NaN stays

    @property
    def mse(self) -> float:
        """Mean squared difference; 0 when empty."""
        return self.noise / max(self.count, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values that give the same sums back."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


def sqnr_db(reference: Array, other: Array) -> float:
    """Signal to quantization noise ratio of two arrays of one shape, dB."""
    return Fidelity.of(reference, other).sqnr_db


def cosine(reference: Array, other: Array) -> float:
    """Cosine of the angle between two arrays of one shape."""
    return Fidelity.of(reference, other).cosine


def mse(reference: Array, other: Array) -> float:
    """Mean squared difference of two arrays of one shape."""
    return Fidelity.of(reference, other).mse


def kl(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Divergence of `q` from `p`, two arrays of counts over the same bins, in nats; infinite where q lacks a bin of p.

    Raises:
        BadCalibration: the shapes differ, or one holds no count.
    """
    left, right = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if left.shape != right.shape:
        raise BadCalibration(f"Histograms of shape {left.shape} and {right.shape} cannot be compared.")
    if not (left.sum() > 0 and right.sum() > 0):
        raise BadCalibration("A histogram without any count has no divergence.")
    here = left > 0
    left, right = left[here] / left.sum(), right[here] / right.sum()
    return math.inf if (right == 0).any() else float((left * np.log(left / right)).sum())
