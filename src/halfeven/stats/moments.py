"""Moments: mean and second moment of the vectors that a layer multiplies by its weights.

For weights w and inputs x, the error that a change d of the weights makes is E[(d.x)^2] = d^T G d, G = E[x x^T]. If the
bias takes up the mean, db = -d.m with m = E[x], what remains is d^T C d with the covariance C = G - m m^T.
Products are float32, sums over samples float64, in the order of the samples.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over `count` vectors for each of g groups of channels: `total` (g, k), `gram` (g, k, k)."""

    count: int
    total: Doubles
    gram: Doubles

    @classmethod
    def of(cls, x: npt.NDArray[np.float32]) -> Self:
        """Moments of `x`, shape (g, vectors, k)."""
        return cls(x.shape[1], x.sum(1, dtype=np.float64), _gram(x).astype(np.float64))

    def then(self, x: npt.NDArray[np.float32]) -> Self:
        """Take `x` in, shape (g, vectors, k); the arrays are added to in place and belong to what is returned."""
        np.add(self.gram, _gram(x), out=self.gram)
        np.add(self.total, x.sum(1, dtype=np.float64), out=self.total)
        return type(self)(self.count + x.shape[1], self.total, self.gram)

    def merge(self, other: Self) -> Self:
        """Both streams."""
        return type(self)(self.count + other.count, self.total + other.total, self.gram + other.gram)

    @property
    def mean(self) -> Doubles:
        """E[x], shape (g, k)."""
        return self.total / max(self.count, 1)

    @property
    def covariance(self) -> Doubles:
        """E[x x^T] - E[x] E[x]^T, shape (g, k, k)."""
        mean = self.mean
        return self.gram / max(self.count, 1) - mean[:, :, None] * mean[:, None, :]


def _gram(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # of many small products BLAS would take longer to start each than to multiply
    return x.transpose(0, 2, 1) @ x if len(x) == 1 else np.einsum("gvi,gvj->gij", x, x)
